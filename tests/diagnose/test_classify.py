"""Evidence in the graph decides between classes that share a message."""

from __future__ import annotations

import onnx
import pytest

from surgery.diagnose.classify import Finding, classify
from surgery.diagnose.facts import Facts
from surgery.trt.types import ParserMessage
from tests.diagnose.models import parsed

NO_PROFILE = (
    "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no "
    "optimization profile has been defined. In validate at network.cpp:4023)"
)
NO_PLUGIN = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
NOT_REGISTERED = "Assertion failed: (ctx->tensors().count(inputName)): Node input was not registered."
NOT_CONVERTED = (
    "Failed to import initializer: In node -1 with name:  and operator:  (importInitializers): UNSUPPORTED_NODE: "
    "Assertion failed: ctx->getWeightsContext().convertOnnxWeights(initializer, &weights): Failed to import "
    "initializer: "
)


def said(description: str, name: str, op: str, function: str = "parseNode") -> ParserMessage:
    return ParserMessage("UNSUPPORTED_NODE", description, name, op, 0, function, "", 0)


def first(found: list[Finding]) -> str:
    assert found
    return found[0].id


@pytest.mark.parametrize(
    ("op", "domain", "wanted"),
    [
        ("Scaler", "ai.onnx.ml", "ml-domain-op"),
        ("FusedMatMul", "com.microsoft", "contrib-domain-op"),
        ("ATen", "org.pytorch.aten", "aten-fallback-op"),
        ("EfficientNMS_TRT", "", "plugin-not-found"),
        ("Anything", "of.mine", "plugin-not-found"),
        ("DFT", "", "unsupported-op"),
        ("DeformConv", "", "deformconv-dcn"),
    ],
)
def test_plugin_not_found_is_told_apart_by_domain(op: str, domain: str, wanted: str) -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 19, "com.microsoft" : 1, "ai.onnx.ml" : 3, "org.pytorch.aten" : 1, '
        '"of.mine" : 1]> g (float[4] x) => (float[4] y) { [n] y = Relu (x) }'
    )
    model.graph.node[0].op_type, model.graph.node[0].domain = op, domain
    older = f"Op type {op} is not supported in TensorRT-RTX."  # 1.6
    for message in (
        said(NO_PLUGIN, "n", op, "checkFallbackPluginImporter"), said(older, "n", op, "parseNodeStaticCheck")
    ):  # fmt: skip
        assert first(classify([message], model=model)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted", "node"),
    [
        ("g (float[4, 8] x, int64[1] a) => (float[] y) <int64[1] s = {1}, int64[1] e = {3}> {"
         " [n] y = Slice (x, s, e, a) }",
         "slice-axes-not-constant", "n"),
        ("g (float[4] x, int64 a) => (float[] y) { [r] z = Relu (x) [n] y = CumSum (z, a) }",
         "cumsum-axis-not-constant", "n"),
        ("g (float[4] x, int64[2] p) => (float[] y) { [n] y = Pad (x, p) }", "pad-dynamic", "n"),
        ("g (int64[4] i, int64[1] d) => (float[] y) <float[2] v = {0, 1}> { [n] y = OneHot (i, d, v) }",
         "onehot", "n"),
        ("g (float[2, 6] x, int64[2] s) => (float[] y) { [n] y = Reshape (x, s) }", "shape-input-no-profile", "n"),
        ("g (float[1, 3] x, int64[4] m) => (float[] y) <int64[1] t = {3}> { [a] s = ReduceSum (m) "
         "[b] c = Concat <axis = 0> (s, t) [n] y = Expand (x, c) }", "expand-runtime-values", "n"),
        ("g (float[b, 3] x) => (float[] y) { [n] y = Relu (x) }", "no-optimization-profile", None),
        ("g (float[b, 3] x, float[b, 3] z) => (float[] y) { [n] y = Add (x, z) }", "profile-missing-input", None),
    ],
)  # fmt: skip
def test_a_missing_profile_is_told_apart_by_what_needs_it(text: str, wanted: str, node: str | None) -> None:
    found = classify([NO_PROFILE], model=parsed(text))
    assert first(found) == wanted
    assert found[0].node == node


def test_shapes_are_no_values() -> None:
    """Expand by a shape that is read off a tensor is not data-dependent."""
    model = parsed("g (float[b, 3] x, float[1] o) => (float[] y) { [s] s = Shape (x) [n] y = Expand (o, s) }")
    assert first(classify([NO_PROFILE], model=model)) == "no-optimization-profile"


@pytest.mark.parametrize(
    ("dtype", "reader", "wanted"),
    [
        (onnx.TensorProto.STRING, "Identity", "string-ops"),
        (onnx.TensorProto.UINT32, "BitShift", "int16-dtype"),
        (onnx.TensorProto.INT16, "QuantizeLinear", "qdq-type-unsupported"),
        (onnx.TensorProto.COMPLEX64, "Identity", "complex-dtype"),
    ],
)
def test_a_constant_that_cannot_be_imported_is_told_apart_by_its_type(
    dtype: int, reader: str, wanted: str
) -> None:
    model = parsed("g (float[1] x) => (float[1] y) { [n] y = Relu (x) }")
    node = model.graph.node[0]
    node.op_type = reader
    node.input[:] = ["x", "x", "k"] if reader == "QuantizeLinear" else ["k"]
    values = [b"a"] if dtype == onnx.TensorProto.STRING else [1]
    model.graph.initializer.append(onnx.helper.make_tensor("k", dtype, [1], values))
    message = ParserMessage("INVALID_GRAPH", NOT_CONVERTED + "k", "", "", -1, "importInitializers", "", 0)
    found = classify([message], model=model)
    assert first(found) == wanted
    assert any("'k'" in e for e in found[0].evidence)


def test_an_input_that_was_not_registered() -> None:
    loop = parsed(
        'g (float[2] x) => (float[2] y) <int64 m = {3}> { [l] y = Loop (m, "", x) <body = b (int64 i, bool c, '
        "float[2] v) => (bool co, float[2] w) { [a] w = Add (v, v) [k] co = Identity (c) }> }"
    )
    assert first(classify([said(NOT_REGISTERED, "k", "Identity")], model=loop)) == "loop-empty-cond-input"
    sparse = parsed("g (float[4] x) => (float[4] y) { [n] y = Add (x, w) }")
    assert first(classify([said(NOT_REGISTERED, "n", "Add")], model=sparse)) == "dangling-input"
    values = onnx.helper.make_tensor("w", 1, [1], [1.0])
    places = onnx.helper.make_tensor("", 7, [1], [2])
    sparse.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [4]))
    assert first(classify([said(NOT_REGISTERED, "n", "Add")], model=sparse)) == "sparse-initializer"


def test_a_refused_node_that_nothing_needs() -> None:
    model = parsed("g (float[2, 2] x) => (float[2, 2] y) { [d] z = Det (x) [n] y = Relu (x) }")
    found = classify([said("false", "d", "Det", "checkDet")], model=model)
    assert [f.id for f in found] == ["unsupported-op-dead", "unsupported-op"]
    assert found[0].evidence == ("no output of the model depends on it",)


def test_names_choose_no_class() -> None:
    """A node that is called like another operator's failure."""
    model = parsed("g (float[2, 2] x) => (float[2] y) { [n] y = Det (x) }")
    model.graph.node[0].name = "Plugin not found Invalid Node - Concat_y NonMaxSuppression has no runners"
    name = model.graph.node[0].name
    assert first(classify([said("false", name, "Det", "checkDet")], model=model)) == "unsupported-op"


def test_a_layer_is_found_by_the_name_in_the_builders_message() -> None:
    model = parsed(
        "g (float[1, 6, 4] b, float[1, 1, 6] s) => (int64[] k) { [some_name] k = NonMaxSuppression (b, s) }"
    )
    text = "Error Code 2: (Assertion !layerImpls.empty() failed. some_name_0 has no runners that implement it In x)"
    found = classify([text], model=model)
    assert first(found) == "nms-data-dependent"
    assert (found[0].node, found[0].op) == ("some_name", "NonMaxSuppression")


def test_chains_of_operands() -> None:
    model = parsed(
        "g (float[b, 3] x) => (float[] y) <int64 z = {0}> { [s] s = Shape (x) [t] i = Gather (s, z)"
        " [n] y = Range (z, i, i) }"
    )
    facts = Facts(model)
    place = facts.find("n")
    assert place is not None
    assert facts.chain(place.scope, "i") == ["Gather 't'", "Shape 's'", "input 'x' float32[b, 3]"]
    assert facts.sources(place.scope, "i") == []
    assert facts.sources(place.scope, "i", through_shapes=True) == ["x"]
