"""Exact suppression as an engine against torchvision on the same boxes: `python benchmarks/nms.py [--lines FILE]`.

The engine is what the rules and the bodies of plugins write (surgery.plugins.native_nms), in the form that they
choose at that size. torchvision's ops.batched_nms keeps all that survives, so that its first rows are compared with
the engine's. Without a GPU the engines are built, and run in ONNX Runtime against the plain greedy loop. Everything
that loads TensorRT or CUDA runs in child processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper

from surgery.plugins.native_nms import Form, NmsSpec, choose_form, nms_function

Line = dict[str, Any]

CASES: dict[str, tuple[int, NmsSpec, float]] = {
    "2 x 1000, one class, first 100": (2, NmsSpec(1000, 1, 100, 100, 0.5, 0.05), 3.0),
    "2 x 1000, one class, all": (2, NmsSpec(1000, 1, 1000, 1000, 0.5, 0.05), 3.0),
    "1 x 3000, 80 classes, first 100": (1, NmsSpec(3000, 80, 100, 100, 0.5, 0.05), 20.0),
    "1 x 3000, 80 classes, first 300": (1, NmsSpec(3000, 80, 300, 100, 0.5, 0.05), 20.0),
    "1 x 1917, 90 classes, first 100": (1, NmsSpec(1917, 90, 100, 100, 0.6, 0.05), 20.0),
}
"""Batch, what to compute, and how many times faster than torchvision it is meant to be."""

OUTPUTS = ("count", "boxes", "scores", "classes", "indices")
ROUNDS = 100


def model_of(spec: NmsSpec, batch: int, form: Form) -> onnx.ModelProto:
    """The suppression alone, inlined: boxes [batch, N, 4], scores [batch, N, C]."""
    function = nms_function(spec, domain="benchmark", name="Nms", opset=17, form=form)
    n, c, k, value = spec.num_boxes, spec.num_classes, spec.max_total, helper.make_tensor_value_info
    node = helper.make_node("Nms", ["in_boxes", "in_scores"], list(OUTPUTS), name="nms", domain="benchmark")
    kinds = TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT32
    shapes = [batch], [batch, k, 4], [batch, k], [batch, k], [batch, k]
    inputs = [("in_boxes", [batch, n, 4]), ("in_scores", [batch, n, c])]
    graph = helper.make_graph(
        [node],
        "nms",
        [value(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [value(*entry) for entry in zip(OUTPUTS, kinds, shapes, strict=True)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("benchmark", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8)
    return onnx.inliner.inline_local_functions(model)


def inputs_of(spec: NmsSpec, batch: int) -> dict[str, np.ndarray]:
    """Boxes that overlap as a detector's do: around a few objects; all scores differ within a class."""
    rng = np.random.default_rng(0)
    objects = rng.uniform(0.1, 0.9, (batch, 40, 2))
    at = np.take_along_axis(objects, rng.integers(0, 40, (batch, spec.num_boxes, 1)), 1)
    middle = at + rng.normal(0, 0.02, (batch, spec.num_boxes, 2))
    half = rng.uniform(0.02, 0.08, (batch, spec.num_boxes, 2))
    boxes = np.concatenate([middle - half, middle + half], -1).astype(np.float32)
    pairs = spec.num_boxes * spec.num_classes
    order = np.stack([rng.permutation(pairs) for _ in range(batch)])
    scores = ((order + 1) / (pairs + 1)).reshape(batch, spec.num_boxes, spec.num_classes)
    return {"in_boxes": boxes, "in_scores": scores.astype(np.float32)}


def greedy(spec: NmsSpec, boxes: np.ndarray, scores: np.ndarray) -> list[tuple[float, int, int]]:
    """The first rows (score, class, box) of one image, by the plain loop; IoU in float32 as torchvision has it."""
    found = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for label in range(spec.num_classes):
        order = np.argsort(-scores[:, label], kind="stable")
        order = order[scores[order, label] > spec.score_threshold]
        taken = 0
        while len(order) and taken < spec.max_per_class:
            one, order, taken = order[0], order[1:], taken + 1
            found.append((float(scores[one, label]), label, int(one)))
            low = np.maximum(boxes[one, :2], boxes[order, :2])
            high = np.minimum(boxes[one, 2:], boxes[order, 2:])
            common = np.prod(np.maximum(high - low, np.float32(0)), axis=-1, dtype=np.float32)
            order = order[common / (areas[one] + areas[order] - common) <= np.float32(spec.iou_threshold)]
    return sorted(found, key=lambda row: (-row[0], row[1]))[: spec.max_total]


def rows_of(outputs: dict[str, np.ndarray], image: int) -> list[tuple[float, int, int]]:
    """What a run of the model found in an image."""
    count = int(outputs["count"][image])
    columns = (outputs[n][image, :count].tolist() for n in ("scores", "classes", "indices"))
    return [tuple(row) for row in zip(*columns, strict=True)]


def same(spec: NmsSpec, feeds: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> bool:
    """Whether a run found what the plain loop finds."""
    boxes, scores = feeds["in_boxes"], feeds["in_scores"]
    return all(rows_of(outputs, i) == greedy(spec, boxes[i], scores[i]) for i in range(len(boxes)))


def run_case(name: str, form: Form | None, folder: Path) -> Line:
    """Build, run and time one case."""
    from raw_build import build

    from surgery.targets import resolve_target
    from surgery.trt.session import Worker
    from surgery.verify.runner import run_onnx

    batch, spec, times = CASES[name]
    chosen = form or choose_form(spec, batch)
    model, feeds = model_of(spec, batch, chosen), inputs_of(spec, batch)
    line: Line = {"case": name, "form": chosen, "chosen": chosen == choose_form(spec, batch), "wanted": times}
    with Worker(resolve_target("tensorrt-rtx").flavour) as worker:
        built = build(worker, model, [])
        if built.engine is None:
            return {**line, "reason": f"not built: {built.errors or built.parse_errors}"}
        gpu = worker.environment().gpu
        if gpu is None:
            found = run_onnx(model, [feeds])[0]
            return {**line, "same": same(spec, feeds, found), "ran": "in ONNX Runtime: no GPU"}
        ran = worker.run(built.engine, [feeds])
        if not ran.ok:
            return {**line, "reason": f"not run: {ran.error}"}
        line.update(same=same(spec, feeds, ran.outputs[0]), ran=gpu.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nms.engine").write_bytes(built.engine)
    np.savez(folder / "nms.npz", **feeds)
    line["engine_ms"] = _child(
        "engine_race.py", str(folder / "nms.engine"), str(folder / "nms.npz"), NVIDIA_TF32_OVERRIDE="0"
    )["median_ms"]
    line.update(_child("nms.py", "--torch", name, "--folder", str(folder)))
    if "torchvision_ms" in line:
        line["ratio"] = round(line["torchvision_ms"] / line["engine_ms"], 2)
    return line


def _child(script: str, *arguments: str, **environment: str) -> Line:
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{script}: {' / '.join(done.stderr.strip().splitlines()[-2:])}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def torch_side(name: str, folder: Path) -> Line:
    """torchvision on the GPU: all images and classes in one call, as its detectors do it."""
    import torch

    try:
        import torchvision
    except ImportError:
        return {"reason": "torchvision is not installed"}
    batch, spec, _ = CASES[name]
    feeds = dict(np.load(folder / "nms.npz"))
    boxes = torch.from_numpy(feeds["in_boxes"]).cuda()
    scores = torch.from_numpy(feeds["in_scores"]).cuda()
    n, c = spec.num_boxes, spec.num_classes
    flat_boxes = boxes[:, :, None, :].expand(batch, n, c, 4).reshape(-1, 4).contiguous()
    flat_scores = scores.reshape(-1).contiguous()
    groups = torch.arange(batch * n * c, device="cuda")
    groups = (groups // (n * c)) * c + groups % c  # an image and a class are a group
    passes = (flat_scores > spec.score_threshold).nonzero().squeeze(1)
    given = flat_boxes[passes], flat_scores[passes], groups[passes], spec.iou_threshold
    found, taken = [], None
    for k in range(ROUNDS + 10):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        taken = torchvision.ops.batched_nms(*given)
        end.record()
        torch.cuda.synchronize()
        if k >= 10:
            found.append(start.elapsed_time(end))
    assert taken is not None
    at = passes[taken].cpu().numpy()
    agree = all(
        torch_rows(spec, at, feeds["in_scores"], image)
        == greedy(spec, feeds["in_boxes"][image], feeds["in_scores"][image])
        for image in range(batch)
    )
    return {
        "torchvision_ms": round(statistics.median(found), 4),
        "torchvision_same": agree,
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }


def torch_rows(
    spec: NmsSpec, kept: np.ndarray, scores: np.ndarray, image: int
) -> list[tuple[float, int, int]]:
    """The first rows of one image of what torchvision kept, positions in [batch, boxes, classes]."""
    n, c = spec.num_boxes, spec.num_classes
    own = kept[kept // (n * c) == image] % (n * c)
    rows = [(float(scores[image, at // c, at % c]), int(at % c), int(at // c)) for at in own]
    taken: dict[int, int] = {}
    limited = []
    for row in sorted(rows, key=lambda r: (-r[0], r[1])):
        taken[row[1]] = taken.get(row[1], 0) + 1
        if taken[row[1]] <= spec.max_per_class:
            limited.append(row)
    return limited[: spec.max_total]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=Path, help="where results are added")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nms-race"))
    parser.add_argument(
        "--both", action="store_true", help="both forms where they fit, not only the chosen one"
    )
    parser.add_argument("--torch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch:
        print(json.dumps(torch_side(options.torch, options.folder)))
        return
    for name, (batch, spec, _) in CASES.items():
        forms: list[Form] = [choose_form(spec, batch)]
        if options.both:
            forms += [f for f in ("select", "fixpoint") if f not in forms and spec.num_classes == 1]
        for form in forms:
            try:
                line = run_case(name, form, options.folder)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                line = {"case": name, "form": form, "reason": str(error)[:300]}
            print(json.dumps(line), flush=True)
            if options.lines:
                with options.lines.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
