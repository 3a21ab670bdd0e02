"""Strings and maps that classifiers give out, read as the numbers that they name."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from surgery.graph.evaluate import Evaluator
from surgery.graph.load import load_model

X = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
LINEAR = (
    "ai.onnx.ml.LinearClassifier <coefficients = [1.0, 0.5, -1.0, -1.0, 0.3, 1.0, 0.1, -2.0, 0.2], "
    "intercepts = [0.1, 0.2, 0.3], post_transform = 'SOFTMAX', %s> (x)"
)
NAMES = "classlabels_strings = ['c', 'a', 'b']"
NUMBERS = "classlabels_ints = [7, 8, 9]"


def parsed(outputs: str, body: str, version: int = 3) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : {version}]>
    g (float[n, 3] x) => ({outputs}) {{ {body.replace("'", '"')} }}"""
    return onnx.parser.parse_model(text)


def original(model: onnx.ModelProto) -> list[object]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[object] = session.run(None, {"x": X})
    return found


def with_maps(model: onnx.ModelProto, name: str, key: int) -> onnx.ModelProto:
    """Declare an output as ZipMap gives it; the text form has no maps in sequences."""
    value = next(v for v in model.graph.output if v.name == name)
    value.type.Clear()
    entry = value.type.sequence_type.elem_type.map_type
    entry.key_type = key
    entry.value_type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


@pytest.mark.parametrize(
    ("classes", "attribute", "names"),
    [(NAMES, NAMES, ["c", "a", "b"]), (NUMBERS, NUMBERS.replace("ints", "int64s"), [7, 8, 9])],
)
def test_maps_of_scores_are_given_as_their_tensor(
    classes: str, attribute: str, names: list[str] | list[int]
) -> None:
    label = "string" if isinstance(names[0], str) else "int64"
    model = parsed(
        f"{label}[n] label, float[n, 3] maps",
        f"label, scores = {LINEAR % classes} maps = ai.onnx.ml.ZipMap <{attribute}> (scores)",
    )
    model = with_maps(model, "maps", 8 if label == "string" else 7)
    want = original(model)[1]
    loaded = load_model(model)
    assert f"its columns are the classes {', '.join(map(str, names))}" in loaded.mended[0]
    onnx.checker.check_model(loaded.proto)
    found = Evaluator(loaded.proto).run({"x": X})["maps"]
    assert isinstance(want, list)
    np.testing.assert_array_equal(found, [[row[name] for name in names] for row in want])


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (f"label, scores = {LINEAR % NAMES}", ["c", "a", "b"]),
        (f"first, scores = {LINEAR % NAMES} label = Identity (first)", ["c", "a", "b"]),
        (
            "w = Constant <value = float[3, 2] {1, -1, 2, 0, 0, 1}> () p = MatMul (x, w) i = ArgMax <axis = 1> (p) "
            "l = ai.onnx.ml.ArrayFeatureExtractor (classes, i) m = Constant <value = int64[1] {-1}> () "
            "label = Reshape (l, m)",
            ["no", "yes"],
        ),
        (
            "w = Constant <value = float[3, 2] {1, -1, 2, 0, 0, 1}> () p = MatMul (x, w) "
            "i = ArgMax <axis = 1, keepdims = 0> (p) label = ai.onnx.ml.LabelEncoder <keys_int64s = [1], "
            "values_strings = ['one'], default_string = 'other'> (i)",
            ["one", "other"],
        ),
        (
            "t = Tanh (x) label, scores = ai.onnx.ml.TreeEnsembleClassifier <nodes_treeids = [0, 0, 0], "
            "nodes_nodeids = [0, 1, 2], nodes_featureids = [0, 0, 0], nodes_values = [0.1, 0.0, 0.0], "
            "nodes_hitrates = [1.0, 1.0, 1.0], nodes_modes = ['BRANCH_LEQ', 'LEAF', 'LEAF'], "
            "nodes_truenodeids = [1, 0, 0], nodes_falsenodeids = [2, 0, 0], "
            "nodes_missing_value_tracks_true = [0, 0, 0], class_treeids = [0, 0], class_nodeids = [1, 2], "
            "class_ids = [1, 1], class_weights = [0.9, 0.2], classlabels_strings = ['bad', 'good']> (t)",
            ["bad", "good"],
        ),
    ],
)
def test_labels_that_are_strings_are_numbered(body: str, names: list[str]) -> None:
    model = parsed("string[n] label", body)
    if "classes" in body:
        model.graph.initializer.append(onnx.helper.make_tensor("classes", 8, [2], ["no", "yes"]))
    want = np.asarray(original(model)[0])
    loaded = load_model(model)
    onnx.checker.check_model(loaded.proto)
    told = ", ".join(f"{i} for {name!r}" for i, name in enumerate(names))
    assert loaded.mended == (f"the output 'label' is a number instead of a string: {told}",)
    found = Evaluator(loaded.proto).run({"x": X})["label"]
    assert found.dtype == np.int64
    assert [names[i] for i in found] == want.tolist()
    assert len(set(want.tolist())) > 1


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("string[n, 3] label", "label = Cast <to = 8> (x)"),
        (
            "string[n] label",
            f"first, scores = {LINEAR % NAMES} label = StringNormalizer <case_change_action = 'UPPER'> (first)",
        ),
        (
            "string[n] label, int64[n] code",
            f"label, scores = {LINEAR % NAMES} code = ai.onnx.ml.LabelEncoder <keys_strings = ['a'], "
            "values_int64s = [5]> (label)",
        ),
    ],
)
def test_strings_that_are_looked_into_stay(outputs: str, body: str) -> None:
    model = parsed(outputs, body)
    assert load_model(model).mended == ()
    assert load_model(model).proto.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.STRING
