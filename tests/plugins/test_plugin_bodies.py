"""Every plugin of the registry: each sample's body in ONNX Runtime against a second implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from engine_builds import assert_builds
from plugin_references import batched_nms
from references import reference_of
from runtime import run

from surgery.plugins.attach import target_model
from surgery.plugins.definition import PLUGIN_DOMAIN, PluginDefinition
from surgery.plugins.registry import Registry
from surgery.plugins.samples import sample_inputs, sample_model
from surgery.plugins.schema import CompareValues, Sample

REGISTRY = Registry.load()
DEFINITIONS = list({d.folder: d for d in REGISTRY.definitions()}.values())  # one version of each folder
CASES = [
    pytest.param(definition, sample, id=f"{definition.folder.name}-{sample.name}")
    for definition in DEFINITIONS
    for sample in definition.samples
]


@dataclass(frozen=True)
class Version:
    flavour: str
    version: str


RTX = Version("tensorrt-rtx", "1.7")


def outputs_of(definition: PluginDefinition, sample: Sample, seed: int, **options: Any) -> list[np.ndarray]:
    model = sample_model(definition, sample, **options)
    onnx.checker.check_model(model)
    return run(model, sample_inputs(sample, seed))


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.folder.name)
def test_every_plugin_has_samples_a_reference_and_a_readme(definition: PluginDefinition) -> None:
    assert definition.samples
    assert reference_of(definition)
    assert (definition.folder / "README.md").read_text().startswith(f"# {definition.name}\n")
    versions = (definition.version, *definition.file.also_versions)
    folders = (definition.name, *(f"{definition.name}_v{v}" for v in versions))
    assert definition.folder.name in folders
    known = set(REGISTRY.names())
    assert set(definition.file.replaced_by) <= known


@pytest.mark.parametrize(("definition", "sample"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_body_equals_the_reference(definition: PluginDefinition, sample: Sample, seed: int) -> None:
    found = outputs_of(definition, sample, seed)
    reference = reference_of(definition)
    assert reference
    wanted = reference(dict(sample.attributes), sample_inputs(sample, seed))
    assert len(found) == len(wanted)
    compare = definition.file.compare
    atol, rtol = (compare.atol, compare.rtol) if isinstance(compare, CompareValues) else (2e-6, 2e-6)
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == want.dtype
        half = 2.0**-10 if got.dtype == np.float16 else 0.0  # the last bit may be rounded otherwise
        np.testing.assert_allclose(got, want, rtol=max(rtol, half), atol=atol)


@pytest.mark.parametrize(("definition", "sample"), CASES)
def test_opsets_and_open_batch_give_the_same_bits(definition: PluginDefinition, sample: Sample) -> None:
    wanted = outputs_of(definition, sample, 3, opset=17)
    for opset in (11, 13, 18, 21):
        for got, want in zip(outputs_of(definition, sample, 3, opset=opset), wanted, strict=True):
            np.testing.assert_array_equal(got, want)
    for got, want in zip(outputs_of(definition, sample, 3, open_batch=True), wanted, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("definition", "sample"), CASES)
def test_inlined_for_a_target_without_it(definition: PluginDefinition, sample: Sample) -> None:
    model = sample_model(definition, sample)
    lowered = target_model(model, REGISTRY, RTX)
    onnx.checker.check_model(lowered, full_check=True)
    assert not lowered.functions
    assert PLUGIN_DOMAIN not in {o.domain for o in lowered.opset_import}
    inputs = sample_inputs(sample, 5)
    for got, want in zip(run(lowered, inputs), run(model, inputs), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("definition", "sample"), CASES)
def test_declared_output_types_are_what_comes_out(definition: PluginDefinition, sample: Sample) -> None:
    model = sample_model(definition, sample)
    for value, got in zip(model.graph.output, outputs_of(definition, sample, 0), strict=True):
        declared = value.type.tensor_type
        assert onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type) == got.dtype
        assert tuple(d.dim_value for d in declared.shape.dim) == got.shape


@pytest.mark.slow
@pytest.mark.parametrize("open_batch", [False, True], ids=["fixed", "open"])
@pytest.mark.parametrize(("definition", "sample"), CASES)
def test_body_builds_on_tensorrt_rtx(definition: PluginDefinition, sample: Sample, open_batch: bool) -> None:
    assert_builds(target_model(sample_model(definition, sample, open_batch=open_batch), REGISTRY, RTX))


def test_the_cap_on_candidates_of_a_class_decides_in_a_sample() -> None:
    """Without the cap the reference gives something else, so the sample does test it."""
    definition = REGISTRY.get("BatchedNMSDynamic_TRT")
    sample = next(s for s in definition.samples if s.name == "few-candidates")
    inputs = sample_inputs(sample, 0)
    capped = batched_nms(dict(sample.attributes), inputs)
    free = batched_nms(dict(sample.attributes), inputs, top_k=60)
    assert not all(np.array_equal(a, b) for a, b in zip(capped, free, strict=True))


def test_efficient_nms_looks_at_5000_candidates_of_an_image() -> None:
    """The lowest class lies beyond the cap and never shows, although rows are free."""
    definition = REGISTRY.get("EfficientNMS_TRT")
    n = 1300
    rng = np.random.default_rng(0)
    boxes = np.tile(np.array([0.1, 0.1, 0.9, 0.9], np.float32), (1, n, 1))
    scores = rng.uniform(0.5, 1.0, (1, n, 5)).astype(np.float32)  # 4 x 1300 of them
    scores[:, :, 4] = np.linspace(0.1, 0.2, n)
    attributes = {
        "score_threshold": 0.05,
        "iou_threshold": 0.5,
        "max_output_boxes": 10,
        "background_class": -1,
        "score_activation": 0,
        "box_coding": 0,
    }
    inputs = [{"shape": boxes.shape}, {"shape": scores.shape}]
    sample = Sample.model_validate({"name": "capped", "attributes": attributes, "inputs": inputs})
    count, _, _, classes = run(sample_model(definition, sample), [boxes, scores])
    assert count[0, 0] == 4
    assert sorted(classes[0, :4]) == [0, 1, 2, 3]
