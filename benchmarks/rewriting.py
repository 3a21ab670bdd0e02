"""Speed and memory of rewriting against other tools, on the same graphs in the same run.

    python benchmarks/rewriting.py [--sizes 1k,10k,50k,big] [--tasks NAME,...] [--limit 240] [--peers PYTHON]
                                   [--folder DIR] [--markdown FILE]

The graphs are made here: transformer blocks as exporters write them (LayerNorm and Gelu in parts, shapes computed
from Shape), 1,000 to 50,000 nodes, and 600 nodes with 1.6 GB of external weights. Every figure is one child process:
seconds of processor time without the tool's imports, which other work on the machine disturbs less than the wall
clock, and the largest resident memory of a process; processes that a tool starts count. Peers that the interpreter
does not have are left out with a line; `--peers` names an interpreter that has them. A tool that took more than a
tenth of the limit is not tried on the next larger graph.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {"1k": (13, 16, 64), "10k": (131, 16, 64), "50k": (658, 16, 64), "big": (8, 2048, 8192)}
"""Blocks, hidden size and size of the inner layer."""

NODES = {"1k": 989, "10k": 9957, "50k": 50009, "big": 609}
SEQUENCE, HEADS, OPSET = 16, 4, 17
NEEDS = {
    "surgery": "surgery", "surgery, verified": "surgery", "two sessions": "onnxruntime",
    "graphsurgeon": "onnx_graphsurgeon", "surgery, one pattern": "surgery",
    "GraphPattern, one pattern": "onnx_graphsurgeon", "onnxscript, one pattern": "onnxscript",
    "onnxslim": "onnxslim", "onnxsim": "onnxsim", "polygraphy": "polygraphy",
}  # fmt: skip
OURS = ("surgery", "surgery, verified", "surgery, one pattern")
TABLES = {
    "Whole runs, relative to graphsurgeon's import, cleanup, sort and export": (
        "graphsurgeon", ["graphsurgeon", "surgery", "onnxslim", "onnxsim", "polygraphy"]
    ),
    "One pattern of five nodes found and replaced everywhere, load and save included, relative to surgery": (
        "surgery, one pattern",
        ["surgery, one pattern", "GraphPattern, one pattern", "onnxscript, one pattern"],
    ),
    "With verification, relative to two ONNX Runtime sessions that run the same inputs": (
        "two sessions", ["two sessions", "surgery, verified"]
    ),
}  # fmt: skip


# -- graphs ---------------------------------------------------------------------------------------------


class Writer:
    """Nodes and weights of a graph, with names that count up."""

    def __init__(self) -> None:
        import numpy as np

        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.count = 0
        self.random = np.random.default_rng(0)

    def name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}_{self.count}"

    def weight(self, *shape: int, value: float | None = None) -> str:
        import numpy as np
        from onnx import numpy_helper

        name = self.name("w")
        if value is None:
            array = (self.random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        else:
            array = np.full(shape, value, np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def constant(self, value: Any) -> str:
        import numpy as np
        from onnx import helper, numpy_helper

        name = self.name("c")
        tensor = numpy_helper.from_array(np.asarray(value))
        self.nodes.append(helper.make_node("Constant", [], [name], name=f"{name}_op", value=tensor))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_op", **attributes))
        return output


def transformer(blocks: int, hidden: int, inner: int) -> Any:
    """A stack of transformer blocks, 76 nodes each."""
    import numpy as np
    from onnx import TensorProto, helper

    w = Writer()
    two, epsilon = w.weight(value=2.0), w.weight(value=1e-5)

    def norm(x: str) -> str:
        d = w.op("Sub", x, w.op("ReduceMean", x, axes=[-1]))
        v = w.op("ReduceMean", w.op("Pow", d, two), axes=[-1])
        d = w.op("Div", d, w.op("Sqrt", w.op("Add", v, epsilon)))
        return w.op("Add", w.op("Mul", d, w.weight(hidden)), w.weight(hidden))

    def linear(x: str, size: int, out: int) -> str:
        return w.op("Add", w.op("MatMul", x, w.weight(size, out)), w.weight(out))

    def split(x: str, source: str) -> str:
        batch = w.op("Gather", w.op("Shape", source), w.constant(np.int64(0)), axis=0)
        batch = w.op("Unsqueeze", batch, w.constant(np.array([0])))
        shape = w.op("Concat", batch, w.constant(np.array([SEQUENCE, HEADS, hidden // HEADS])), axis=0)
        return w.op("Transpose", w.op("Reshape", x, shape), perm=[0, 2, 1, 3])

    x = "x"
    for _ in range(blocks):
        y = norm(x)
        q, k, v = (split(linear(y, hidden, hidden), y) for _ in range(3))
        a = w.op("MatMul", q, w.op("Transpose", k, perm=[0, 1, 3, 2]))
        a = w.op("Div", a, w.constant(np.float32(np.sqrt(hidden // HEADS))))
        a = w.op("MatMul", w.op("Softmax", a, axis=-1), v)
        a = w.op(
            "Reshape", w.op("Transpose", a, perm=[0, 2, 1, 3]), w.constant(np.array([-1, SEQUENCE, hidden]))
        )
        x = w.op("Add", x, linear(a, hidden, hidden))
        f = linear(norm(x), hidden, inner)
        e = w.op("Erf", w.op("Div", f, w.constant(np.float32(2**0.5))))
        e = w.op("Add", e, w.constant(np.float32(1)))
        f = w.op("Mul", w.op("Mul", f, e), w.constant(np.float32(0.5)))
        x = w.op("Add", x, linear(f, inner, hidden))
    w.nodes.append(helper.make_node("Identity", [x], ["y"], name="out"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, SEQUENCE, hidden]) for n in "xy"]
    graph = helper.make_graph(w.nodes, "g", ends[:1], ends[1:], w.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def write_graph(path: Path, size: str) -> None:
    """Write a graph unless it is there."""
    import onnx

    if path.exists():
        return
    if size == "big":
        onnx.save(transformer(*SIZES[size]), path, save_as_external_data=True, location=f"{path.stem}.data")
    else:
        onnx.save(transformer(*SIZES[size]), path)


def save(model: Any, target: Path, size: str) -> None:
    import onnx

    options = {"save_as_external_data": True, "location": f"{target.stem}.data"} if size == "big" else {}
    onnx.save(model, target, **options)


# -- tasks: each imports what it needs and returns what is timed ------------------------------------------

Task = Callable[[Path, Path, str], Callable[[], Any]]


def whole(stages: str) -> Task:
    def prepare(source: Path, target: Path, size: str) -> Callable[[], Any]:
        import surgery

        def timed() -> Any:
            report = surgery.run("generic", source, output=target.parent, stages=stages)
            assert report.failure is None, report.failure
            seconds = {s.name: s.seconds for s in report.stages}
            return {"nodes": len(report.model.graph.node), "rules_s": seconds["rewrite"]}

        return timed

    return prepare


def sessions(source: Path, target: Path, size: str) -> Callable[[], Any]:
    import numpy as np
    import onnxruntime

    hidden = SIZES[size][1]
    feeds = {"x": np.random.default_rng(0).normal(size=(2, SEQUENCE, hidden)).astype(np.float32)}
    made = target.parent / source.name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2

    def timed() -> Any:
        for path in (source, made if made.exists() else source):
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for _ in range(3):
                session.run(None, feeds)
            del session

    return timed


def graphsurgeon(source: Path, target: Path, size: str) -> Callable[[], Any]:
    import onnx
    import onnx_graphsurgeon as gs

    def timed() -> Any:
        graph = gs.import_onnx(onnx.load(source))
        graph.cleanup().toposort()
        save(gs.export_onnx(graph), target, size)
        return {"nodes": len(graph.nodes)}

    return timed


def our_pattern(source: Path, target: Path, size: str) -> Callable[[], Any]:
    import onnx

    from surgery.graph.convert import export_graph, import_graph
    from surgery.rules.engine.pair import pair
    from surgery.rules.engine.run import Engine

    inner = (
        "c = Constant <value_float: float = @c> () one = Constant <value_float = 1.0> () "
        "half = Constant <value_float = 0.5> () d = Div (x, c) e = Erf (d) a = Add (e, one)"
    )
    rule = pair(
        "gelu",
        before=f"<c: float> (x) => (y) {{ {inner} m = Mul (x, a) y = Mul (m, half) }}",
        after=f"<c: float> (x) => (y) {{ {inner} h = Mul (x, half) y = Mul (h, a) }}",
        why="a benchmark",
        samples=["() => () {}"],
        when="always",
    )

    def timed() -> Any:
        graph, header = import_graph(onnx.load(source, load_external_data=False))
        outcome = Engine([rule], lambda *_: True).run(graph, {})
        model = export_graph(graph, header)
        target.write_bytes(model.SerializeToString())
        if size == "big":
            os.link(source.with_suffix(".data"), target.with_name(f"{size}.data"))
        return {"replaced": len(outcome.edits)}

    return timed


def their_pattern(source: Path, target: Path, size: str) -> Callable[[], Any]:
    import onnx
    import onnx_graphsurgeon as gs

    pattern = gs.GraphPattern()
    x, c, one, half = pattern.variable(), pattern.variable(), pattern.variable(), pattern.variable()
    d = pattern.add("d", "Div", inputs=[x, c])
    e = pattern.add("e", "Erf", inputs=[d])
    a = pattern.add("a", "Add", inputs=[e, one])
    m = pattern.add("m", "Mul", inputs=[x, a])
    pattern.set_output_tensors([pattern.add("y", "Mul", inputs=[m, half])])

    def timed() -> Any:
        graph = gs.import_onnx(onnx.load(source))
        found = pattern.match_all(graph)
        for number, match in enumerate(found):
            f, g, h = match.inputs[0], match.get("a").outputs[0], match.inputs[3]
            (out,) = match.outputs
            out.inputs.clear()
            (scaled,) = [gs.Variable(f"scaled_{number}", dtype=f.dtype)]
            graph.nodes.append(gs.Node("Mul", f"first_{number}", inputs=[f, h], outputs=[scaled]))
            graph.nodes.append(gs.Node("Mul", f"second_{number}", inputs=[scaled, g], outputs=[out]))
        graph.cleanup().toposort()
        save(gs.export_onnx(graph), target, size)
        return {"replaced": len(found)}

    return timed


def script_pattern(source: Path, target: Path, size: str) -> Callable[[], Any]:
    import onnx_ir
    from onnxscript.rewriter import pattern

    def before(op: Any, x: Any, c: Any, one: Any, half: Any) -> Any:
        return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, c)), one)), half)

    def after(op: Any, x: Any, c: Any, one: Any, half: Any) -> Any:
        return op.Mul(op.Mul(x, half), op.Add(op.Erf(op.Div(x, c)), one))

    rules = pattern.RewriteRuleSet([pattern.RewriteRule(before, after)])

    def timed() -> Any:
        model = onnx_ir.load(source)
        count = rules.apply_to_model(model)
        onnx_ir.save(model, target, external_data=f"{target.stem}.data" if size == "big" else None)
        return {"replaced": count}

    return timed


def onnxslim(source: Path, target: Path, size: str) -> Callable[[], Any]:
    import onnxslim

    def timed() -> Any:
        model = onnxslim.slim(str(source))
        save(model, target, size)
        return {"nodes": len(model.graph.node)}

    return timed


def onnxsim(source: Path, target: Path, size: str) -> Callable[[], Any]:
    import onnx
    import onnxsim

    def timed() -> Any:
        made = onnxsim.simplify(str(source) if size == "big" else onnx.load(source))
        model = made[0] if isinstance(made, tuple) else made
        save(model, target, size)
        return {"nodes": len(model.graph.node)}

    return timed


def polygraphy(source: Path, target: Path, size: str) -> Callable[[], Any]:
    tool = Path(sys.executable).parent / "polygraphy"
    command = [
        str(tool),
        "surgeon",
        "sanitize",
        str(source),
        "-o",
        str(target),
        "--fold-constants",
        "--silent",
    ]
    if size == "big":
        command += ["--save-external-data", f"{target.stem}.data", "--external-data-size-threshold", "1024"]

    def timed() -> Any:
        import onnx

        subprocess.run(command, check=True, capture_output=True)
        return {"nodes": len(onnx.load(target, load_external_data=False).graph.node)}

    return timed


TASKS: dict[str, Task] = {
    "graphsurgeon": graphsurgeon,
    "surgery": whole("load..substitute,save"),
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "polygraphy": polygraphy,
    "surgery, one pattern": our_pattern,
    "GraphPattern, one pattern": their_pattern,
    "onnxscript, one pattern": script_pattern,
    "surgery, verified": whole("load..substitute,verify,save"),
    "two sessions": sessions,
}


# -- measuring --------------------------------------------------------------------------------------------


def processes() -> list[int]:
    """This process and what descends from it and still runs, as far as /proc tells."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [os.getpid()]
    for pid in found:
        found += [p for p, parent in parents.items() if parent == pid]
    return found


def peak() -> float:
    """Largest resident memory in MB of this process and of those that it started, each by itself."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    found = [resource.getrusage(k).ru_maxrss for k in kinds]
    for pid in processes():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            found += [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return max(found) / 1024


def processor() -> float:
    """Seconds of processor time of this process and of those that it started."""
    times = os.times()
    found = times.user + times.system + times.children_user + times.children_system
    for pid in processes()[1:]:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return found


def child(task: str, size: str, folder: Path) -> None:
    """Measure one task and print what came out."""
    if not task:
        write_graph(folder / f"{size}.onnx", size)
        return
    target = folder / "made" / "made.onnx"
    timed = TASKS[task](folder / f"{size}.onnx", target, size)
    started, before = time.perf_counter(), processor()
    told = timed() or {}
    seconds, wall = processor() - before, time.perf_counter() - started
    print("RESULT " + json.dumps({"s": seconds, "wall_s": wall, "mb": peak(), **told}), flush=True)


def measure(python: str, task: str, size: str, folder: Path, limit: float) -> dict[str, Any]:
    """A result, or ``{"left_out": why}``."""
    if task != "two sessions":  # it also runs what the task before it made
        shutil.rmtree(folder / "made", ignore_errors=True)
    (folder / "made").mkdir(exist_ok=True)
    command = [python, __file__, "--child", task, "--sizes", size, "--folder", str(folder)]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"left_out": f"> {limit:.0f} s", "s": limit}
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        said = (done.stderr.strip().splitlines() or ["no result"])[-1][:120]
        return {"left_out": f"failed: {said}"}
    return {**json.loads(lines[-1][7:]), "process_s": time.perf_counter() - started}


def has(python: str, module: str) -> bool:
    test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", test]).returncode == 0


def measure_all(args: argparse.Namespace, folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """All tasks on all sizes."""
    results: dict[tuple[str, str], dict[str, Any]] = {}
    wanted = args.tasks.split(",") if args.tasks else list(TASKS)
    tasks = []
    for task in (t for t in TASKS if any(t == w or t.startswith(f"{w},") for w in wanted)):
        python = sys.executable if task in OURS or task == "two sessions" else args.peers
        if has(python, NEEDS[task]):
            tasks.append((task, python))
        else:
            print(f"{task}: left out, {NEEDS[task]} is not installed")
    for size in args.sizes.split(","):
        # A process inherits the peak of the one that starts it, so that one has to stay small.
        subprocess.run(
            [sys.executable, __file__, "--child", "", "--sizes", size, "--folder", str(folder)], check=True
        )
        for task, python in tasks:
            smaller = [results[task, s].get("s", 0.0) for s in ("1k", "10k") if (task, s) in results]
            if size == "50k" and smaller and max(smaller) > args.limit / 10 and task not in OURS:
                result = {"left_out": "not run"}
            else:
                result = measure(python, task, size, folder, args.limit)
            results[task, size] = result
            print(f"{size:>4} {task:<26} {json.dumps(result)}", flush=True)
        if args.markdown:
            args.markdown.write_text(tables(results, args.sizes.split(",")))
    return results


def tables(results: dict[tuple[str, str], dict[str, Any]], sizes: list[str]) -> str:
    """Markdown: a table for each comparison; cells are the ratio to the first row's seconds, seconds and memory."""
    lines: list[str] = []
    titles = {s: f"{NODES[s]:,} nodes" + (", 1.6 GB of weights" if s == "big" else "") for s in sizes}
    for title, (base, rows) in TABLES.items():
        if not any((row, size) in results for row in rows for size in sizes):
            continue
        lines += [
            "",
            f"### {title}",
            "",
            "| | " + " | ".join(titles.values()) + " |",
            "|---" * (len(sizes) + 1) + "|",
        ]
        for row in rows:
            cells = [cell(results.get((row, s)), results.get((base, s))) for s in sizes]
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines[1:]) + "\n"


def cell(result: dict[str, Any] | None, base: dict[str, Any] | None) -> str:
    if result is None or "left_out" in result:
        return result["left_out"] if result else "-"
    text = f"{result['s']:.2f} s, {result['mb']:.0f} MB"
    if base and "left_out" not in base:
        text = f"**{result['s'] / base['s']:.2f}x** ({text})"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed and memory of rewriting against other tools.")
    parser.add_argument("--sizes", default="1k,10k,50k,big")
    parser.add_argument("--tasks", help="names, or beginnings before a comma")
    parser.add_argument("--limit", type=float, default=240, help="seconds for one figure")
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the other tools")
    parser.add_argument("--folder", type=Path, help="keep graphs here instead of in a temporary folder")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args.child, args.sizes, args.folder)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = measure_all(args, folder)
    print("\n" + tables(results, args.sizes.split(",")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
