from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from surgery.errors import ConfigError
from surgery.verify.cases import IMAGE_SIZES, make_cases
from surgery.verify.search import Search


def model(inputs: str, initializers: str = "") -> onnx.ModelProto:
    """A model that only has inputs."""
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g ({inputs}) => (float[1] y) {initializers} {{ y = Constant <value = float[1] {{1.0}}> () }}
    """)


STATIC = model("uint8[1, 8, 8, 3] image")
FREE = model("uint8[batch, h, w, 3] image, int64[batch] ids")
RESULT = model("float[batch, 3, 32, 32] pixels, int64[batch] ids")


def cases(original: onnx.ModelProto, result: onnx.ModelProto | None = None, **options: Any) -> Any:
    profiles = options.pop("profiles", [])
    options = {"per_point": 2, "seed": 0, **options}
    return make_cases(original, result or original, profiles, **options)


def test_there_are_at_least_three_cases_and_all_differ() -> None:
    made = cases(STATIC, per_point=1)
    assert [c.name for c in made] == ["static-0", "static-1", "static-2"]
    assert len({c.feeds["image"].tobytes() for c in made}) == 3
    assert all(c.feeds["image"].dtype == np.uint8 for c in made)
    assert len(cases(STATIC, per_point=5)) == 5


def test_the_seed_decides() -> None:
    one, two, other = (cases(STATIC, seed=seed)[0].feeds["image"] for seed in (3, 3, 4))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_free_images_come_in_several_sizes_one_not_square() -> None:
    made = cases(FREE)
    assert [c.feeds["image"].shape for c in made] == [(1, h, w, 3) for h, w in IMAGE_SIZES]
    assert any(h != w for h, w in IMAGE_SIZES)


def test_every_point_of_a_profile_once() -> None:
    profile = {"input": "ids", "min": [1], "opt": [2], "max": [4]}
    made = cases(FREE, RESULT, profiles=[profile])
    assert [(c.name, c.feeds["image"].shape[0], len(c.feeds["ids"])) for c in made] == [
        ("opt-0", 2, 2), ("opt-1", 2, 2), ("min-0", 1, 1), ("min-1", 1, 1), ("max-0", 4, 4), ("max-1", 4, 4)
    ]  # fmt: skip
    flat = {"input": "ids", "min": [2], "opt": [2], "max": [2]}
    assert [c.name for c in cases(FREE, RESULT, profiles=[flat])] == ["opt-0", "opt-1", "opt-2"]


def test_usual_batches_between_the_ends_are_compared_too() -> None:
    profile = {"input": "ids", "min": [1], "opt": [1], "max": [4]}
    made = cases(FREE, RESULT, per_point=1, profiles=[profile])
    assert [(c.name, c.feeds["image"].shape[0], len(c.feeds["ids"])) for c in made][-1] == ("batch-2", 2, 2)
    wide = {"input": "ids", "min": [1], "opt": [3], "max": [8]}
    assert [c.name for c in cases(FREE, RESULT, per_point=1, profiles=[wide])][-2:] == ["batch-2", "batch-4"]


def test_a_batch_at_which_the_original_does_not_run_is_left_out() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,2] x) => (float[k,6] y) {{
        s = Constant <value = int64[2] {{-1, {0}}}> () y = Reshape (x, s) }}"""
    profile = {"input": "x", "min": [1, 2], "opt": [1, 2], "max": [4, 2]}
    for width, names in ((2, ["batch-2"]), (8, [])):
        given = onnx.parser.parse_model(text.format(width))
        made = cases(given, per_point=1, profiles=[profile], search=Search(given, given))
        assert [c.name for c in made if c.name.startswith("batch")] == names


def unnamed(shape: list[int | None], name: str = "image") -> onnx.ModelProto:
    """A model whose free dims have no names, as many exporters leave them."""
    helper = onnx.helper
    value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Relu", [name], ["y"])], "g", [value], [out])
    return helper.make_model(graph)


def test_a_profile_reaches_dims_without_names() -> None:
    profile = {"input": "image", "min": [1, 3, 64, 64], "opt": [2, 3, 96, 80], "max": [4, 3, 128, 128]}
    made = cases(unnamed([None, 3, None, None]), per_point=1, profiles=[profile])
    assert [(c.name, list(c.feeds["image"].shape)) for c in made] == [
        ("opt-0", profile["opt"]), ("min-0", profile["min"]), ("max-0", profile["max"])
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [[None, None, None, 3], [3, None, None]], ids=["layout", "rank"])
def test_a_profile_of_another_layout_is_not_taken_by_place(shape: list[int | None]) -> None:
    profile = {"input": "image", "min": [1, 3, 64, 64], "opt": [2, 3, 96, 80], "max": [4, 3, 128, 128]}
    made = cases(unnamed(shape), unnamed([None, 3, None, None]), per_point=1, profiles=[profile])
    free = [(1, *size, 3) if len(shape) == 4 else (3, 16, 16) for size in IMAGE_SIZES]
    assert [c.feeds["image"].shape for c in made] == free


def test_initializers_are_no_inputs() -> None:
    listed = model("uint8[1, 8, 8, 3] image, float[1] w", "<float[1] w = {1.0}>")
    assert list(cases(listed)[0].feeds) == ["image"]


def test_constants_are_the_same_in_every_case() -> None:
    made = cases(FREE, constants={"ids": [7]})
    assert all(c.feeds["ids"].tolist() == [7] for c in made)
    assert made[0].feeds["ids"].dtype == np.int64


def test_given_inputs_are_one_more_case() -> None:
    image = np.full((1, 8, 8, 3), 9, np.uint8)
    made = cases(STATIC, given={"image": image})
    assert [c.name for c in made] == ["static-0", "static-1", "static-2", "inputs"]
    assert np.array_equal(made[-1].feeds["image"], image)
    with pytest.raises(ConfigError, match="dtype"):
        cases(STATIC, given={"image": image.astype(np.float32)})
