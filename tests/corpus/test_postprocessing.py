"""Plugins, custom domains and post-processing in the graph of real exports: an engine, or a graph for full TensorRT.

Which models these are is seen in their graphs. Each goes through `auto` for TensorRT-RTX, whose engine is built,
and for two versions of full TensorRT, for which a graph is prepared: its plugin nodes have to exist there with fields
that their creators take, and ONNX Runtime has to give for it what it gives for the original. A part of them runs,
another one each day (SURGERY_PART=all for all).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import onnx
import pytest

import surgery
from surgery.graph.walk import all_nodes
from surgery.targets import resolve_target
from tests.heads.ssd_models import CORPUS
from tests.plugin_fields import field_problems
from tests.rotation import part

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="the folder of exported models is not here"),
]

FOLDERS = (CORPUS, CORPUS.parent / "exported")
TARGETS = ("tensorrt-rtx", "tensorrt-10.16", "tensorrt-11.4")
PARTS = 12

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU"})
STANDARD = ("", "ai.onnx", "ai.onnx.ml")

CONTRADICTIONS = {
    # The plugin compares the anchors of its image with those it is given, and refuses (proposalLayerPlugin.cpp).
    "legacy_maskrcnn_proposallayer_pyramidroialign_detectionlayer": (
        "/ProposalLayer_TRT",
        "4080 anchors given; an image of 512 x 512 has 65472",
    ),
    # Prior boxes of the first of six feature maps go to the suppression; the other five are read by nothing.
    "legacy_uffssd_gridanchor_flatten_nms_trt": (
        "/NMS_TRT",
        "loc holds 7668 values per image; expected 4332 for the 1083 boxes of prior; conf",
    ),
}
"""Models that contradict themselves, so that no TensorRT takes them either: the node, and what is said of it."""

# A few whose graphs have what is looked for, so that a mistake in looking is seen.
KNOWN = {
    "legacy_efficientnms_onnx_trt": "custom",
    "mmdeploy_twostage_dcn_roialign_instnorm_gridsampler": "custom",
    "bert.ts.bertfusion": "custom",
    "tf2_ssd_mobilenet_v2_fpnlite_320": "suppression",
    "ultra_yolo11_nms_agnostic.ts": "suppression",
    "tv_maskrcnn.ts": "suppression",
    "roialign_legacy.ts": "regions",
    "centernet.ts": "best",
    "yolov10_topk.dynamo": "best",
}
PLAIN = ("resnet.ts", "bert.ts", "yolov8_head.ts", "mixtral.ts", "ultra_yolov5.ts")


@cache
def kind(path: Path) -> str | None:
    """What a model's graph has of what is tested here, None for nothing."""
    model = onnx.load(path, load_external_data=False)
    functions = {(f.domain, f.name) for f in model.functions}
    nodes = [*all_nodes(model.graph.node), *(n for f in model.functions for n in f.node)]
    own = [n for n in nodes if (n.domain, n.op_type) not in functions]
    if any(n.domain not in STANDARD or not onnx.defs.has(n.op_type, n.domain) for n in own):
        return "custom"
    operators = {n.op_type for n in nodes}
    if "NonMaxSuppression" in operators:
        return "suppression"
    if {"RoiAlign", "MaxRoiPool"} & operators:
        return "regions"
    return (
        "best" if any(_ends_with(n, model.graph) for n in model.graph.node if n.op_type == "TopK") else None
    )


def _ends_with(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether a node's results reach an output and no product in between: it chooses what the model gives."""
    reached, chosen = set(node.output), {o.name for o in graph.output}
    for other in graph.node:  # in topological order
        if reached & {*other.input}:
            if other.op_type in PRODUCTS:
                return False
            reached |= {*other.output}
    return bool(reached & chosen)


def models() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.onnx")):
            if kind(path) is not None:
                yield path


def cases() -> list[tuple[Path, str]]:
    found = [p for p in models() if p.stem not in CONTRADICTIONS] if CORPUS.is_dir() else []
    return [(p, t) for p in found for t in TARGETS]


def found(name: str) -> Path:
    return next(p for p in (f / f"{name}.onnx" for f in FOLDERS) if p.is_file())


def test_what_is_looked_for_is_found() -> None:
    assert {n: kind(found(n)) for n in KNOWN} == KNOWN
    assert [kind(found(n)) for n in PLAIN] == [None] * len(PLAIN)
    assert len(list(models())) >= 44


@pytest.mark.parametrize(
    ("path", "target"), part(cases(), PARTS), ids=lambda v: v.stem if isinstance(v, Path) else v
)
def test_every_one_reaches_every_target(path: Path, target: str, tmp_path: Path) -> None:
    report = surgery.run("auto", path, target=target, output=tmp_path)
    assert report.failure is None, report.failure
    assert report.exit_code == 0
    graph = report.verification["graph"]
    assert graph["status"] == "passed"
    assert graph["cases"]
    assert all(o["passed"] for case in graph["cases"] for o in case["outputs"])
    chosen = resolve_target(target)
    (made,) = tmp_path.glob(f"*.{chosen.name}.onnx")
    model = onnx.load(made)
    assert not model.functions
    assert {n.domain for n in all_nodes(model.graph.node)} <= {"", "ai.onnx"}
    assert field_problems(model, chosen) == []
    if chosen.flavour == "tensorrt-rtx":
        assert report.engine
        assert all(onnx.defs.has(n.op_type) for n in all_nodes(model.graph.node))
    else:
        assert report.status == "prepared" or chosen.installed


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused_and_told(name: str, target: str) -> None:
    node, message = CONTRADICTIONS[name]
    report = surgery.run("auto", found(name), target=target)
    assert report.failure is not None
    assert (report.exit_code, report.failure.code) == (4, "plugin-configuration")
    assert report.failure.node == node
    assert re.search(re.escape(message), report.failure.message)
