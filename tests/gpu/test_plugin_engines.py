"""Bodies of plugins as engines on a real GPU against their references, for every sample of the registry.

Run where a GPU is that the installed TensorRT flavour supports: ``pytest -m gpu tests/gpu/test_plugin_engines.py``.
With OUT set, the differences go to ``$OUT/plugins.jsonl``, one line for each case.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from surgery.plugins.attach import target_model
from surgery.plugins.definition import PluginDefinition
from surgery.plugins.registry import Registry
from surgery.plugins.samples import sample_inputs, sample_model
from surgery.plugins.schema import CompareValues, Sample
from surgery.targets import resolve_target
from surgery.trt.session import Worker
from surgery.trt.types import ShapeProfile

# The references live beside the tests of the bodies.
sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))
from references import reference_of

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

REGISTRY = Registry.load()
CASES = [
    pytest.param(definition, sample, id=f"{definition.name}-{sample.name}")
    for definition in REGISTRY.definitions()
    for sample in definition.samples
]
LOOSER = 10.0
"""A GPU rounds exponentials and sums differently: so many times the tolerance of the comparison on a CPU."""


def profiles(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[list[ShapeProfile]]:
    """One profile from a batch of one to the sample's, if the model has an open dim."""
    found = []
    for value in model.graph.input:
        dims = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        if None in dims:
            full = feeds[value.name].shape
            least = tuple(1 if d is None else d for d in dims)
            found.append(ShapeProfile(value.name, least, full, full))
    return [found] if found else []


@pytest.mark.parametrize("open_batch", [False, True], ids=["fixed", "open"])
@pytest.mark.parametrize(("definition", "sample"), CASES)
def test_body_as_an_engine_equals_the_reference(
    definition: PluginDefinition, sample: Sample, open_batch: bool, worker: Worker
) -> None:
    reference = reference_of(definition)
    assert reference is not None
    model = sample_model(definition, sample, open_batch=open_batch)
    # Always the body, also where this TensorRT has the plugin.
    lowered = target_model(model, REGISTRY, resolve_target("tensorrt-rtx-1.7"))
    arrays = sample_inputs(sample, 0)
    names = [i.name for i in model.graph.input]
    feeds = dict(zip(names, arrays, strict=True))
    built = worker.build(lowered.SerializeToString(), profiles(model, feeds))
    assert built.ok, (built.parse_errors, built.errors)
    assert built.engine is not None
    ran = worker.run(built.engine, [feeds])
    assert ran.ok, ran.error
    wanted = reference(dict(sample.attributes), arrays)
    compare = definition.file.compare
    atol, rtol = (compare.atol, compare.rtol) if isinstance(compare, CompareValues) else (2e-6, 2e-6)
    got = [ran.outputs[0][o.name] for o in model.graph.output]
    worst = [largest_difference(g, w) for g, w in zip(got, wanted, strict=True)]
    record({"plugin": definition.name, "sample": sample.name, "open": open_batch, "max_abs": worst})
    for one, two in zip(got, wanted, strict=True):
        half = 4 * float(np.finfo(np.float16).eps) if two.dtype == np.float16 else 0.0
        np.testing.assert_allclose(one, two, atol=max(atol * LOOSER, half), rtol=max(rtol * LOOSER, half))


def largest_difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float64) - two.astype(np.float64)).max()) if one.size else 0.0


def record(line: dict[str, Any]) -> None:
    if out := os.environ.get("OUT"):
        with Path(out, "plugins.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
