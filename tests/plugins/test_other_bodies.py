"""What the bodies of scattering, normalising, deforming, interpolating and BERT plugins promise beyond their samples.

Each sample's body is compared with its reference in test_plugin_bodies.py.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from references_other import REFERENCES
from runtime import run

from surgery.errors import ConversionError
from surgery.plugins.attach import attach_bodies, target_model
from surgery.plugins.definition import PluginDefinition, TensorType
from surgery.plugins.registry import Registry
from surgery.plugins.samples import sample_inputs, sample_model
from surgery.plugins.schema import Sample

REGISTRY = Registry.load()
OTHERS = {key.partition(":")[0] for key in REFERENCES}
DEFINITIONS = list({d.folder: d for d in REGISTRY.definitions() if d.name in OTHERS}.values())


@dataclass(frozen=True)
class Version:
    flavour: str
    version: str


RTX, TRT10, TRT11 = Version("tensorrt-rtx", "1.7"), Version("tensorrt", "10.16"), Version("tensorrt", "11.4")


def sample_of(
    name: str, version: str | None = None, sample: str | None = None
) -> tuple[PluginDefinition, Sample]:
    definition = REGISTRY.get(name, version)
    return definition, next(s for s in definition.samples if sample in (None, s.name))


def configured(name: str, attributes: dict[str, Any], *values: np.ndarray, version: str | None = None) -> Any:
    """Outputs of a plugin's body on these inputs."""
    inputs = [{"shape": v.shape, "dtype": str(v.dtype)} for v in values]
    sample = Sample.model_validate({"name": "made", "attributes": attributes, "inputs": inputs})
    return run(sample_model(REGISTRY.get(name, version), sample), list(values))


def floats(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


# -- two configurations ---------------------------------------------------------------------------------


def changed(definition: PluginDefinition, sample: Sample) -> dict[str, Any] | None:
    """Other attributes that fit the same inputs, or None if the plugin has none that change its result."""
    other: dict[str, dict[str, Any]] = {
        "Clip_TRT": {"clipMax": 3.0},
        "CustomFCPluginDynamic": {"W": floats(9, *np.shape(sample.attributes.get("W", [])))},
        "CustomGeluPluginDynamic": {"bias": floats(9, sample.inputs[0].shape[-1])},
        "CustomQKVToContextPluginDynamic": {"num_heads": 1},
        "CustomSkipLayerNormPluginDynamic": {"beta": floats(9, *np.shape(sample.attributes.get("beta", [])))},
        "DisentangledAttention_TRT": {"factor": 0.75},
        "GroupNormalizationPlugin": {"num_groups": 1},
        "InstanceNormalization_TRT": {"relu": 1, "alpha": 0.2},
        "LReLU_TRT": {"negSlope": 0.7},
        "MMCVDeformConv2d": {"padding": [2, 2, 2, 2], "dilation": [2, 2]},
        "MMCVModulatedDeformConv2d": {"padding": [2, 2], "dilation": [2, 2]},
        "ModulatedDeformConv2d": {"padding": [2, 2], "dilation": [2, 2]},
        "ScatterElements": {"reduction": "max"},
        "TRTBicubicInterpolate": {"align_corners": 0},
        "TRTInstanceNormalization": {"epsilon": 0.5},
        "TopkLastDim": {"is_largest": 0},
        "VoxelGeneratorPlugin": {"voxel_size": [1.0, 1.0, 2.0]},
        "grid_sampler": {"padding_mode": 1},
    }
    if definition.name.startswith("CustomEmb"):
        gamma = sample.attributes["bert_embeddings_layernorm_gamma"]
        return {**sample.attributes, "bert_embeddings_layernorm_gamma": gamma + np.float32(1)}
    change = other.get(definition.name)
    return {**sample.attributes, **change} if change is not None else None


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.folder.name)
def test_two_configurations_of_one_plugin_in_one_model(definition: PluginDefinition) -> None:
    """Each node gets its own body, portable and lowered, and equal ones share one."""
    sample = definition.samples[0]
    attributes = changed(definition, sample)
    if attributes is None:
        assert not set(definition.file.attributes) - {"scale", "im2col_step", "axis", "output_lengths"}
        return
    names = [i.name for i in definition.declared_inputs(len(sample.inputs))]
    count = len(definition.file.outputs)
    nodes = [
        definition.make_node(f"n{i}", names, [f"n{i}_{o}" for o in range(count)], a)
        for i, a in enumerate((sample.attributes, attributes, sample.attributes))
    ]
    types = [TensorType(i.dtype, tuple(i.shape)) for i in sample.inputs]
    found = definition.output_types(nodes[0], types)[0]
    outputs = [info(f"n{i}_0", found) for i in range(3)]
    graph = helper.make_graph(nodes, "g", [info(n, t) for n, t in zip(names, types, strict=True)], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    portable = attach_bodies(model, REGISTRY)
    onnx.checker.check_model(portable)
    assert [n.op_type for n in portable.graph.node] == [
        definition.name,
        f"{definition.name}__2",
        definition.name,
    ]
    inputs = sample_inputs(sample)
    one, two, three = run(portable, inputs)
    np.testing.assert_array_equal(one, three)
    assert one.shape == two.shape
    assert not np.allclose(one, two, atol=1e-3)
    for got, want in zip(run(target_model(model, REGISTRY, RTX), inputs), (one, two, three), strict=True):
        np.testing.assert_array_equal(got, want)


def info(name: str, known: TensorType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(known.dtype)), known.shape
    )


# -- what a kernel does its own way ---------------------------------------------------------------------


def test_coordinates_are_ramps_only_in_square_images() -> None:
    """The kernel mixes up rows and columns; square images do not show it."""
    (square,) = configured("CoordConvAC", {}, np.zeros((1, 1, 5, 5), np.float32))
    ramp = np.linspace(-1, 1, 5, dtype=np.float32)
    np.testing.assert_allclose(square[0, 1], np.repeat(ramp[:, None], 5, 1), atol=1e-6)
    np.testing.assert_allclose(square[0, 2], np.repeat(ramp[None], 5, 0), atol=1e-6)
    (wide,) = configured("CoordConvAC", {}, np.zeros((1, 1, 3, 5), np.float32))
    assert wide[0, 1].max() == 0.0  # two rows down by a quarter each
    np.testing.assert_allclose(wide[0, 2].ravel()[:6], [-1, 0, 1, -1, 0, 1], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (1, 1, 4, 1)])
def test_coordinates_of_one_row_or_column_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConversionError, match="divides by 0"):
        configured("CoordConvAC", {}, np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("ModulatedDeformConv2d", "mask"), ("MMCVModulatedDeformConv2d", "mask"), ("MMCVDeformConv2d", "plain")],
)
def test_the_first_stride_belongs_to_the_columns(name: str, inputs: str) -> None:
    """Without offsets it is a convolution: rows step by the second number, columns by the first."""
    x, kernel = floats(0, 1, 1, 6, 9), np.ones((1, 1, 1, 1), np.float32)
    values = [x, np.zeros((1, 2, 6, 3), np.float32), kernel]
    if inputs == "mask":
        values.insert(2, np.ones((1, 1, 6, 3), np.float32))
    attributes: dict[str, Any] = {"stride": [3, 1], "padding": [0, 0], "dilation": [1, 1]}
    if name == "ModulatedDeformConv2d":
        attributes.update(group=1, deformable_group=1)
    (y,) = configured(name, attributes, *values)
    np.testing.assert_allclose(y, x[:, :, :, ::3], atol=1e-6)


def test_a_padding_of_four_numbers_is_read_up_to_the_second() -> None:
    """mmdeploy's exporter writes (rows, rows, columns, columns)."""
    x, kernel = floats(0, 1, 1, 4, 4), np.ones((1, 1, 1, 1), np.float32)
    offset = np.zeros((1, 2, 6, 6), np.float32)
    (y,) = configured("MMCVDeformConv2d", {"padding": [1, 1, 7, 7]}, x, offset, kernel)
    np.testing.assert_allclose(y[0, 0, 1:5, 1:5], x[0, 0], atol=1e-6)
    assert not y[0, 0, 0].any()


def test_offsets_of_another_size_than_the_convolution_are_refused() -> None:
    definition, sample = sample_of("MMCVDeformConv2d")
    shapes = [TensorType("float32", tuple(i.shape)) for i in sample.inputs]
    assert definition.check(sample.attributes, shapes) == []
    narrow = [shapes[0], TensorType("float32", (2, 18, 5, 4)), shapes[2]]
    assert any("the offsets have 4 columns" in p for p in definition.check(sample.attributes, narrow))
    other = [shapes[0], TensorType("float32", (2, 16, 5, 6)), shapes[2]]
    assert any("offset has 16 channels; expected 18" in p for p in definition.check(sample.attributes, other))


def test_mean_adds() -> None:
    data, updates = np.zeros((1, 2), np.float32), np.array([[1, 2, 4]], np.float32)
    indices = np.array([[1, 1, 0]])
    attributes = {"axis": 1, "reduction": "mean"}
    (y,) = configured("ScatterElements", attributes, data, indices, updates)
    np.testing.assert_array_equal(y, [[4, 3]])


def test_indices_of_another_size_beside_the_axis_are_refused() -> None:
    data, updates = floats(0, 3, 4), floats(1, 2, 2)
    with pytest.raises(ConversionError, match="addresses other elements"):
        configured(
            "ScatterElements", {"axis": 1, "reduction": "add"}, data, np.zeros((2, 2), np.int64), updates
        )


def test_halves_go_away_from_zero() -> None:
    """A place between two pixels: ONNX takes the even one, this plugin the one further from pixel 0."""
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    places = np.array([-0.5, 0.5, 1.5, 2.5])
    grid = np.stack([(places * 2 + 1) / 4 - 1, np.zeros(4)], axis=-1).reshape(1, 1, 4, 2).astype(np.float32)
    (y,) = configured("grid_sampler", {"interpolation_mode": 1}, x, grid)
    np.testing.assert_array_equal(y.ravel(), [0, 1, 2, 3])  # -1 lies outside: 0
    (y,) = configured("grid_sampler", {"interpolation_mode": 1, "padding_mode": 1}, x + 5, grid)
    np.testing.assert_array_equal(y.ravel(), [5, 6, 7, 8])


def test_a_constant_token_has_no_variance() -> None:
    """The kernel adds no epsilon, except for some sizes."""

    def normalised(hidden: int) -> np.ndarray:
        weights = {"gamma": np.ones(hidden, np.float32), "beta": np.zeros(hidden, np.float32)}
        token = np.ones((1, 1, hidden, 1, 1), np.float32)
        attributes = {"type_id": 0, "ld": hidden, **weights}
        (y,) = configured("CustomSkipLayerNormPluginDynamic", attributes, token, token, version="5")
        return y

    assert np.isnan(normalised(8)).all()
    assert not normalised(768).any()


def test_a_sequence_without_keys_gives_zeros() -> None:
    attributes = {"type_id": 0, "hidden_size": 4, "num_heads": 2, "has_mask": 1}
    lengths = np.array([[0], [3]], np.int32)
    (y,) = configured(
        "CustomQKVToContextPluginDynamic", attributes, floats(0, 3, 2, 12, 1, 1), lengths, version="4"
    )
    assert not y[:, 0].any()
    assert y[:, 1].all()


def test_embeddings_lengths_and_attention_fit_together() -> None:
    """The mask that one body writes is the one that the other reads."""
    rng = np.random.default_rng(0)
    tables = {"word": (7, 4), "token_type": (2, 4), "position": (6, 4)}
    weights = {f"bert_embeddings_{n}_embeddings": rng.normal(size=s) for n, s in tables.items()}
    norm = {"bert_embeddings_layernorm_gamma": np.ones(12), "bert_embeddings_layernorm_beta": np.zeros(12)}
    weights = {k: np.tile(v, (1, 3)).astype(np.float32) for k, v in weights.items()} | norm
    embed = REGISTRY.get("CustomEmbLayerNormPluginDynamic", "6").make_node(
        "e", ["w", "s", "m"], ["x", "mask"], weights
    )
    attributes = {"type_id": 0, "hidden_size": 4, "num_heads": 1, "has_mask": 1}
    attend = REGISTRY.get("CustomQKVToContextPluginDynamic", "4").make_node(
        "a", ["x", "mask"], ["y"], attributes
    )
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.INT32, [5, "B"]) for n in "wsm"]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [5, "B", 4, 1, 1])]
    graph = helper.make_graph([embed, attend], "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    words = rng.integers(0, 7, (5, 2)).astype(np.int32)
    mask = np.array([[1, 1], [1, 1], [0, 1], [0, 1], [0, 1]], np.int32)
    portable = attach_bodies(model, REGISTRY)
    (y,) = run(portable, [words, words % 2, mask])
    words[2:, 0] = 6 - words[2:, 0]  # tokens that do not count
    (z,) = run(portable, [words, words % 2, mask])
    np.testing.assert_array_equal(y[:2, 0], z[:2, 0])
    np.testing.assert_array_equal(y[:, 1], z[:, 1])
    assert not np.array_equal(y[2:, 0], z[2:, 0])


def test_lower_limits_of_whole_numbers_lose_their_fraction() -> None:
    x = np.arange(-5, 6, dtype=np.int32).reshape(1, -1)
    (y,) = configured("Clip_TRT", {"clipMin": -2.9, "clipMax": 3.9}, x)
    np.testing.assert_array_equal(y, np.clip(x, -2, 3))


@pytest.mark.parametrize("scale", [1.1, 1.3, 2.7, 0.3])
def test_every_source_pixel_is_inside(scale: float) -> None:
    for length in (1, 3, 10, 31, 100):
        if int(np.float32(length) * np.float32(scale)) < 1:
            continue
        x = np.arange(length * length, dtype=np.float32).reshape(1, 1, length, length)
        (y,) = configured("ResizeNearest_TRT", {"scale": scale}, x)
        (want,) = REFERENCES["ResizeNearest_TRT"]({"scale": scale}, [x])
        np.testing.assert_array_equal(y, want)


def test_relative_positions_reach_the_last_column_and_no_further() -> None:
    """A long sequence: the bucket of the furthest position is clamped to the table."""
    content = np.zeros((1, 600, 600), np.float32)
    table = np.tile(np.arange(64, dtype=np.float32), (1, 600, 1))
    (y,) = configured("DisentangledAttention_TRT", {"span": 32, "factor": 1.0}, content, table, table * 0)
    assert y[0, 599, 0] == 63
    assert y[0, 0, 599] == 0
    assert y[0, 5, 5] == 32
    np.testing.assert_array_equal(np.diff(y[0, :, 300]) >= 0, True)


# -- free dims ------------------------------------------------------------------------------------------

KNOWN: dict[str, set[tuple[int, int]]] = {
    "CoordConvAC": {(0, 2), (0, 3)},
    "DisentangledAttention_TRT": {(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)},
    "MMCVDeformConv2d": {(i, k) for i in range(3) for k in range(4)} - {(0, 0), (1, 0)},
    "MMCVModulatedDeformConv2d": {(i, k) for i in range(5) for k in range(4)} - {(0, 0), (1, 0), (2, 0)},
    "MMCVMultiScaleDeformableAttention": {(0, 2), (0, 3)},
    "ModulatedDeformConv2d": {(i, k) for i in range(5) for k in range(4)} - {(0, 0), (1, 0), (2, 0)},
    "MultiscaleDeformableAttnPlugin_TRT": {(0, 2), (0, 3)},
    "ScaledDotProductAttentionTRT": {(0, 2)},
    "ScatterND": {(1, 1)},
    "TRTBicubicInterpolate": {(0, 2), (0, 3)},
    "grid_sampler": {(0, 2), (0, 3), (0, 4)},
}
"""Dims that a body needs as numbers, by (input, axis); every other one may be free."""


def free_model(definition: PluginDefinition, sample: Sample) -> onnx.ModelProto:
    """The sample's node with a symbol for each dim that need not be known; equal numbers share none."""
    known = KNOWN.get(definition.name, set())
    names = [i.name for i in definition.declared_inputs(len(sample.inputs))]
    types = [
        TensorType(
            given.dtype,
            tuple(d if (i, k) in known or d == 1 else f"d{i}_{k}" for k, d in enumerate(given.shape)),
        )
        for i, given in enumerate(sample.inputs)
    ]
    outputs = [f"out_{i}" for i in range(sample.outputs or len(definition.file.outputs))]
    node = definition.make_node("n", names, outputs, sample.attributes)
    found = definition.output_types(node, types)
    graph = helper.make_graph(
        [node],
        "free",
        [info(n, t) for n, t in zip(names, types, strict=True)],
        [info(n, t) for n, t in zip(outputs, found, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return attach_bodies(model, REGISTRY)


FREE = [d for d in DEFINITIONS if d.folder.name != "ResizeNearest_TRT"]
"""ResizeNearest_TRT has a free size for whole factors only: see below."""


@pytest.mark.parametrize("definition", FREE, ids=lambda d: d.folder.name)
def test_dims_are_free_wherever_the_definition_says_so(definition: PluginDefinition) -> None:
    for sample in definition.samples:
        inputs = sample_inputs(sample, 4)
        free = run(free_model(definition, sample), inputs)
        for got, want in zip(free, run(sample_model(definition, sample), inputs), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


def test_a_size_is_free_for_whole_factors_and_asked_for_otherwise() -> None:
    definition, whole = sample_of("ResizeNearest_TRT", sample="twice")
    inputs = sample_inputs(whole)
    (free,), (fixed,) = (
        run(free_model(definition, whole), inputs),
        run(sample_model(definition, whole), inputs),
    )
    np.testing.assert_array_equal(free, fixed)
    with pytest.raises(ConversionError, match="the body needs a number"):
        free_model(*sample_of("ResizeNearest_TRT", sample="broken-factor"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("DisentangledAttention_TRT", {}),
        ("grid_sampler", {}),
        ("CoordConvAC", {}),
        ("ModulatedDeformConv2d", {}),
    ],
)
def test_a_dim_that_has_to_be_known_is_named(name: str, change: dict[str, Any]) -> None:
    definition, sample = sample_of(name)
    node = definition.make_node("n", [i.name for i in definition.file.inputs], ["y"], sample.attributes)
    shapes = [tuple(f"d{i}_{k}" for k, _ in enumerate(s.shape)) for i, s in enumerate(sample.inputs)]
    with pytest.raises(ConversionError) as caught:
        definition.body(node, shapes, [i.dtype for i in sample.inputs], 17)
    assert caught.value.node == "n"
    assert "known" in str(caught.value) or "needs a number" in str(caught.value)


def test_more_updates_than_elements() -> None:
    """Rounds of scatters: TensorRT takes no more updates in one scatter than a tensor has elements."""
    definition = REGISTRY.get("ScatterElements")
    given = [{"shape": (3, 2)}, {"shape": (20, 2), "dtype": "int64"}, {"shape": (20, 2)}]
    sample = Sample.model_validate({"name": "many", "attributes": {"reduction": "add"}, "inputs": given})
    data, updates = floats(0, 3, 2), floats(1, 20, 2)
    indices = np.random.default_rng(2).integers(0, 3, (20, 2))
    model = free_model(definition, sample)
    assert any(n.op_type == "Loop" for f in model.functions for n in f.node)
    (want,) = REFERENCES["ScatterElements"]({"reduction": "add"}, [data, indices, updates])
    (got,) = run(model, [data, indices, updates])
    np.testing.assert_allclose(got, want, atol=1e-5)
    build_all({"many": target_model(model, REGISTRY, RTX)}, {"many": [g["shape"] for g in given]})


# -- point clouds ---------------------------------------------------------------------------------------

CLOUD = {
    "max_num_points_per_voxel": 3,
    "max_voxels": 2,
    "voxel_feature_num": 10,
    "voxel_size": [1.0, 1.0, 2.0],
}


def pillars(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plugin's outputs for one frame, in a range of 2 by 2 pillars."""
    attributes = {**CLOUD, "point_cloud_range": [0.0, 0.0, -1.0, 2.0, 2.0, 1.0]}
    count = np.array([len(points)], np.int32)
    features, places, number = configured("VoxelGeneratorPlugin", attributes, points[None], count)
    return features[0], places[0], number[0]


def test_a_pillar_keeps_so_many_points_and_their_mean() -> None:
    points = np.zeros((7, 4), np.float32)
    points[:, 0] = [0.1, 0.2, 0.3, 0.4, 0.5, 1.5, 2.0]  # five in one pillar, one in the next, one outside
    points[:, 3] = np.arange(7)
    features, places, number = pillars(points)
    assert number == 2
    np.testing.assert_array_equal(places, [[0, 0, 0, 0], [0, 0, 0, 1]])
    kept = features[0, :, 3]
    assert len(set(kept.tolist())) == 3
    assert set(kept.tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}  # which of the five is open
    np.testing.assert_allclose(features[0, :, 4], features[0, :, 0] - features[0, :, 0].mean(), atol=1e-6)
    np.testing.assert_allclose(features[0, :, 7], features[0, :, 0] - 0.5, atol=1e-6)
    np.testing.assert_array_equal(features[1, 0, [0, 3, 4, 7]], [1.5, 5, 0, 0])
    assert not features[1, 1:].any()


def test_a_frame_keeps_so_many_pillars() -> None:
    points = np.array([[1.5, 1.5, 0, 1], [0.5, 1.5, 0, 2], [0.5, 0.5, 0, 3]], np.float32)
    features, places, number = pillars(points)
    assert number == 2
    np.testing.assert_array_equal(places, [[0, 0, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(features[:, 0, 3], [3, 2])


def test_clouds_as_large_as_in_practice_build() -> None:
    attributes = {
        "max_num_points_per_voxel": 32,
        "max_voxels": 10000,
        "point_cloud_range": [0.0, -39.68, -3.0, 69.12, 39.68, 1.0],
        "voxel_feature_num": 10,
        "voxel_size": [0.16, 0.16, 4.0],
    }
    given = [{"shape": (1, 200000, 4)}, {"shape": (1,), "dtype": "int32"}]
    sample = Sample.model_validate({"name": "kitti", "attributes": attributes, "inputs": given})
    build_all(
        {"kitti": target_model(sample_model(REGISTRY.get("VoxelGeneratorPlugin"), sample), REGISTRY, RTX)}
    )


# -- targets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ops"), [("Split", {"Slice"}), ("ScatterND", {"Cast", "ScatterND"})])
def test_nodes_that_no_target_makes_into_the_plugin_are_lowered_everywhere(name: str, ops: set[str]) -> None:
    definition, sample = sample_of(name)
    assert definition.available("tensorrt", "10.16")
    for target in (RTX, TRT10, TRT11):
        lowered = target_model(sample_model(definition, sample), REGISTRY, target)
        onnx.checker.check_model(lowered, full_check=True)
        assert {n.op_type for n in lowered.graph.node} <= {"Constant", "Identity"} | ops


def test_a_plugin_node_keeps_its_weights_for_a_target_that_has_it() -> None:
    definition, sample = sample_of("CustomSkipLayerNormPluginDynamic", "5")
    lowered = target_model(sample_model(definition, sample), REGISTRY, TRT11)
    (node,) = lowered.graph.node
    assert (node.op_type, node.domain) == ("CustomSkipLayerNormPluginDynamic", "")
    gamma = next(a.t for a in node.attribute if a.name == "gamma")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(gamma), sample.attributes["gamma"])
    version = next(a.s for a in node.attribute if a.name == "plugin_version")
    assert version == b"5"


@pytest.mark.parametrize(
    ("name", "versions"),
    [
        ("CustomEmbLayerNormPluginDynamic", ["1", "2", "3", "4", "5", "6"]),
        ("CustomSkipLayerNormPluginDynamic", ["1", "2", "5", "6"]),
        ("CustomQKVToContextPluginDynamic", ["1", "2", "4", "5"]),
        ("InstanceNormalization_TRT", ["1", "2", "3"]),
        ("ScatterElements", ["1", "2"]),
    ],
)
def test_versions_have_definitions(name: str, versions: list[str]) -> None:
    assert [d.version for d in REGISTRY.definitions() if d.name == name] == versions


@pytest.mark.parametrize(
    ("name", "version", "change", "words"),
    [
        ("CustomFCPluginDynamic", "1", {"W": [1.0, 2.0]}, "W has 2 values; expected 3 * 5"),
        ("CustomFCPluginDynamic", "1", {"type_id": 1}, "stands for float16, but the input is float32"),
        ("CustomSkipLayerNormPluginDynamic", "5", {"ld": 7}, "gamma has 6 values; expected 7"),
        ("CustomSkipLayerNormPluginDynamic", "6", {"bias": [1.0]}, "bias has 1 values; expected 6"),
        ("CustomQKVToContextPluginDynamic", "4", {"num_heads": 4}, "not a multiple of num_heads 4"),
        ("CustomQKVToContextPluginDynamic", "4", {"has_mask": 1}, "has_mask is 1"),
        ("CustomQKVToContextPluginDynamic", "5", {"var_seqlen": 1}, "var_seqlen takes float16 only"),
        ("CustomEmbLayerNormPluginDynamic", "6", {"full_mask": 1}, "full_mask"),
        ("DisentangledAttention_TRT", "2", {"span": 5}, "data1 and data2 have 16 columns"),
        ("DisentangledAttention_TRT", "2", {"span": 1}, "the minimum is 2"),
        ("GroupNormalizationPlugin", "1", {"num_groups": 4}, "6 channels are not a multiple"),
        ("InstanceNormalization_TRT", "3", {"bias": [1.0]}, "bias has 1 values, scales 3"),
        ("ModulatedDeformConv2d", "2", {"group": 2}, "3 channels are not a multiple of group 2"),
        ("ScatterElements", "2", {"reduction": "none"}, "expected one of 'add'"),
        ("ScatterElements", "2", {"axis": 2}, "axis 2 is outside of 2 dims"),
        ("Split", "1", {"output_lengths": [1, 3]}, "add up to 4, but the axis has 6"),
        ("TopkLastDim", "1", {"k": 10}, "k is 10, but the axis has 9 entries"),
        ("TopkLastDim", "1", {"type_id": 3}, "stands for int32, but the input is float32"),
    ],
)
def test_what_does_not_fit_is_said(name: str, version: str, change: dict[str, Any], words: str) -> None:
    definition, sample = sample_of(name, version)
    types = [TensorType(i.dtype, tuple(i.shape)) for i in sample.inputs]
    assert definition.check(sample.attributes, types) == []
    found = definition.check({**sample.attributes, **change}, types)
    assert any(words in problem for problem in found), found


# -- engines --------------------------------------------------------------------------------------------

_BUILD_ALL = """
import json, struct, sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
source = sys.stdin.buffer
while head := source.read(16):
    size, count = struct.unpack("<QQ", head)
    shapes = json.loads(source.read(count))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(source.read(size)):
        print("parser:", " ".join(parser.get_error(i).desc() for i in range(parser.num_errors)).replace("\\n", " "))
        continue
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = list(tensor.shape)
        if -1 in shape and shapes:
            profile.set_shape(tensor.name, *[shapes[i]] * 3)
        elif -1 in shape:
            profile.set_shape(tensor.name, *([b if d == -1 else d for d in shape] for b in (1, 2, 4)))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    print("ok" if engine is not None and engine.nbytes > 0 else "no engine")
"""


def build_all(models: dict[str, onnx.ModelProto], shapes: dict[str, Any] | None = None) -> None:
    """Fails unless TensorRT-RTX, in one process of its own, builds an engine of every model.

    Free dims go from 1 to 4, or have the numbers of `shapes` (of all inputs, by model).
    """
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    jobs = []
    for name, model in models.items():
        text, fixed = model.SerializeToString(), json.dumps((shapes or {}).get(name)).encode()
        jobs.append(struct.pack("<QQ", len(text), len(fixed)) + fixed + text)
    done = subprocess.run(
        [sys.executable, "-c", _BUILD_ALL],
        input=b"".join(jobs),
        capture_output=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.decode(errors="replace").splitlines()
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert dict(zip(models, lines, strict=True)) == dict.fromkeys(models, "ok")


def test_first_samples_build_with_free_batch() -> None:
    """One process and one engine per plugin; the slow test builds the rest."""
    build_all(
        {
            d.folder.name: target_model(sample_model(d, d.samples[0], open_batch=True), REGISTRY, RTX)
            for d in DEFINITIONS
        }
    )


@pytest.mark.slow
def test_free_dims_build() -> None:
    models, shapes = {}, {}
    for definition in FREE:
        for sample in definition.samples:
            name = f"{definition.folder.name}-{sample.name}"
            models[name] = target_model(free_model(definition, sample), REGISTRY, RTX)
            shapes[name] = [i.shape for i in sample.inputs]
    build_all(models, shapes)


@pytest.mark.slow
def test_every_sample_builds() -> None:
    build_all(
        {
            f"{d.folder.name}-{s.name}-{free}": target_model(
                sample_model(d, s, open_batch=free), REGISTRY, RTX
            )
            for d in DEFINITIONS
            for s in d.samples
            for free in (False, True)
        }
    )
