"""The page docs/corpus.md, from results of benchmarks/corpus.py and benchmarks/corpus_gpu.py."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]

WHY: dict[str, str] = {
    "control-flow": "A Loop that a condition ends, with a tensor that grows: TensorRT's loops keep shapes. A "
    "largest number of rounds, given by the user, would let it be padded.",
    "data-dependent-shape": "Sizes that follow from data, in front of an operator that padding does not go through. "
    "Each such operator needs a rule for padded tensors of its own.",
    "needs-constant": "A shape that is computed from data. As above.",
    "head-not-recognised": "A suppression that is none of those that surgery can prove equal (soft suppression). It "
    "needs a form in standard operators.",
    "plugin-configuration": "The plugin node contradicts itself (ONNX Runtime cannot run it either): inputs or "
    "attributes that the kernel refuses.",
    "parser-refused": "An operator for which there is no rule at a free size.",
    "not-convertible": "TensorRT takes every node and fails on the whole: an error of its compiler, or branches of "
    "different ranks.",
    "profile-impossible": "ONNX Runtime refuses the model at every size: the file is not valid.",
    "verification-failed": "ONNX Runtime has no kernel for the original, so there is nothing to compare with.",
}
"""What lies behind a code, and what it would take."""

CAUSES: dict[str, str] = {
    "legacy_maskrcnn_proposallayer_pyramidroialign_detectionlayer": (
        "the file hands ProposalLayer_TRT 4080 anchors, and the kernel makes 65472 of its own for that "
        "picture: no TensorRT runs it. It would take another export."
    ),
    "legacy_uffssd_gridanchor_flatten_nms_trt": (
        "the file hands NMS_TRT boxes and scores of 1917 anchors and priors of 1083: no TensorRT runs it. It "
        "would take another export."
    ),
    "vits.ts": (
        "the length of the sound is a sum of durations that the network predicts, and no bound of them is in "
        "the graph. It would take a largest length given by the user."
    ),
    "fastspeech2_conformer.ts": (
        "as in vits.ts: durations that are predicted decide how often each token is repeated."
    ),
    "wav2vec2_masked.dynamo": (
        "two lengths that are equal for every number of samples are written as different roundings of "
        "divisions, and meet in an Expand. It would take a proof that they are equal; the TorchScript export "
        "of the same model is reached."
    ),
}
"""The same for single models, where the code says too little; by the model's name."""


def read(
    derived: Path, given: Path | None, gpu: Path | None
) -> tuple[list[Result], list[Result], dict[str, dict[str, Result]]]:
    """Results of the three runs; lines of the last one by model and by what they are about."""
    lines: dict[str, dict[str, Result]] = {}
    for text in gpu.read_text().splitlines() if gpu else ():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            own = lines.setdefault(line["model"], {})
            own[line["what"]] = _races(own.get("race"), line) if line["what"] == "race" else line
    return json.loads(derived.read_text()), json.loads(given.read_text()) if given else [], lines


def _races(before: Result | None, line: Result) -> Result:
    """What several races of one pair of engines say together: the mean of their ratios."""
    measured = [*(before or {}).get("measured", []), *([line["ratio"]] if "ratio" in line else [])]
    if not measured:
        return line
    return {**line, "measured": measured, "ratio": statistics.geometric_mean(measured)}


def page(
    results: Sequence[Result],
    given: Sequence[Result] = (),
    gpu: Mapping[str, Mapping[str, Result]] | None = None,
) -> str:
    """docs/corpus.md.

    Args:
        results: The run with derived shapes and inputs, with or without raw builds.
        given: The run with given ones.
        gpu: Lines of the run on a GPU.
    """
    runs = [r for r in results if r.get("ort") is None]
    good = [r for r in results if reached(r)]
    lines = [
        "# Real exported models",
        "",
        "What `surgery run auto MODEL --target tensorrt-rtx` makes of real exports with random weights.",
        "Written by `python benchmarks/corpus.py FOLDER... --raw --json results.json`, then `--page docs/corpus.md`.",
        "Shapes and inputs are derived; the engine is built, and the graph that it is built from is compared",
        "with the original in ONNX Runtime.",
        "",
        f"{len(results)} models; ONNX Runtime loads {len(runs)} of them, and "
        f"{share(sum(map(reached, runs)), len(runs))} of those end with an engine; {len(good)} of all.",
        *_given(given),
        *_not_reached([r for r in results if not reached(r)]),
        *_raw(results),
        *_on_gpu(gpu or {}, {r["model"] for r in results if (r.get("raw") or {}).get("as_given")}),
        *_reached(good, {r["model"]: r for r in given}, gpu or {}),
    ]
    return "\n".join(lines) + "\n"


def expectations(results: Sequence[Result]) -> str:
    """How often each rule and plugin applies on each model that is reached: tests/corpus/expectations.yaml."""
    lines = [
        "# How often each rule and plugin applies on each model that ends with an engine; another count fails",
        "# the test. Written by `python benchmarks/corpus.py --json results.json --expectations FILE`.",
    ]
    for r in sorted(filter(reached, results), key=stem):
        counts = ", ".join(f"{rule}: {n}" for rule, n in sorted(r["rules"].items()))
        lines.append(f"{stem(r)}: {{{counts}}}")
    return "\n".join(lines) + "\n"


def reached(result: Mapping[str, Any]) -> bool:
    """Whether a run ended with an engine."""
    return str(result["status"]).startswith("ok")


def share(part: int, whole: int) -> str:
    """A number and what part of another it is."""
    return f"{part} ({100 * part / max(1, whole):.1f} %)"


def paragraph(text: str) -> list[str]:
    """Lines of a text."""
    return textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)


def stem(result: Mapping[str, Any]) -> str:
    """The model's name."""
    return str(result["model"]).removesuffix(".onnx")


def text_of(result: Mapping[str, Any], most: int = 200) -> str:
    """Why a run did not reach an engine, in a cell of a table."""
    failure = result.get("failure") or {}
    said = str(failure.get("message") or result["status"])
    said = said.removeprefix(f"{stem(result)}: ").replace("|", "/").replace("\n", " ")
    return said if len(said) <= most else said[:most].rpartition(" ")[0] + " ..."


def _given(given: Sequence[Result]) -> list[str]:
    if not given:
        return []
    bad = [r for r in given if not reached(r)]
    text = (
        f"A second run took shapes and inputs from the corpus itself, for the {len(given)} models that it has them "
        f"for: {share(len(given) - len(bad), len(given))} end with an engine (column `given` below)."
    )
    if bad:
        text += " Not with given shapes: " + ", ".join(f"{stem(r)} ({_code(r)})" for r in bad) + "."
        if any(_code(r) == "profile-impossible" for r in bad):
            text += (
                " `profile-impossible`: at one of the given shapes the original does not run in ONNX Runtime on any "
                "input that surgery derives; for most, the smallest picture is too small for the model itself."
            )
    return ["", *paragraph(text)]


def _code(result: Mapping[str, Any]) -> str:
    return str((result.get("failure") or {}).get("code") or result["status"])


def _not_reached(bad: Sequence[Result]) -> list[str]:
    lines = [
        "",
        "## Not reached",
        "",
        "| model | ends with | where | cause |",
        "| --- | --- | --- | --- |",
    ]
    for r in bad:
        node = (r.get("failure") or {}).get("node") or ""
        lines.append(f"| {stem(r)} | {_code(r)} | {f'`{node}`' if node else ''} | {text_of(r)} |")
    codes = {_code(r) for r in bad}
    lines += ["", "What is behind them, and what it would take:", ""]
    lines += [f"- `{code}`: {WHY[code]}" for code in WHY if code in codes]
    lines += [f"- {stem(r)}: {CAUSES[stem(r)]}" for r in bad if stem(r) in CAUSES]
    return lines


def _raw(results: Sequence[Result]) -> list[str]:
    asked = [r for r in results if r.get("raw")]
    builds = [r for r in asked if r["raw"]["ok"]]
    if not asked:
        return []
    both = [r["raw"] for r in builds if r["raw"].get("surgery_bytes")]
    lost = [r for r in builds if not reached(r)]
    sizes = [b["surgery_bytes"] / b["bytes"] for b in both]
    times = [b["surgery_seconds"] / b["build_seconds"] for b in both if b["build_seconds"]]
    text = (
        f"The parser and builder take {len(builds)} of the {len(asked)} models as they are, with the same shapes and "
        f"options. Of those, {share(len(builds) - len(lost), len(builds))} end with an engine of surgery's"
    )
    text += f"; not: {', '.join(map(stem, lost))}." if lost else "."
    lines = ["", "## Beside the raw parser", "", *paragraph(text)]
    if both:
        lines += [
            "",
            "| surgery / raw | median | 90 of 100 below | largest |",
            "| --- | --- | --- | --- |",
            f"| size of the engine | {_spread(sizes)} |",
            f"| time to build | {_spread(times)} |",
        ]
    return lines


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    most = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return " | ".join(f"{v:.2f}" for v in (statistics.median(ordered), most, ordered[-1]))


def _on_gpu(gpu: Mapping[str, Mapping[str, Result]], as_given: Collection[str]) -> list[str]:
    ran = {m: ls["surgery"] for m, ls in gpu.items() if "surgery" in ls and gpu_verdict(ls) is not None}
    if not ran:
        return []
    passed = [m for m, line in ran.items() if line["engine"] == "passed"]
    ratios = {m: ls["race"]["ratio"] for m, ls in gpu.items() if "ratio" in ls.get("race", {})}
    raw = [ls["raw"] for ls in gpu.values() if ls.get("raw", {}).get("right") is not None]
    first = next(iter(ran.values()))
    version = first["versions"].get("tensorrt-rtx") or first["versions"].get("tensorrt_rtx") or ""
    lines = ["", "## On a GPU", ""]
    text = (
        f"`python benchmarks/corpus_gpu.py FOLDER...` on one {first['gpu'] or 'GPU'} with TensorRT-RTX {version}, "
        f"TF32 off: {len(ran)} engines were run on the inputs that the graph is verified on, and "
        f"{share(len(passed), len(ran))} agree with the original in ONNX Runtime."
    )
    if raw:
        wrong = sorted(stem(r) for r in raw if not r["right"])
        text += f" Of {len(raw)} raw engines run on the same inputs, {len(wrong)} give something else"
        text += f" ({', '.join(wrong)})." if wrong else "."
    lines += paragraph(text)
    if ratios:
        alike = {m: r for m, r in ratios.items() if gpu[m]["race"].get("same") or m in as_given}
        ratios.update(dict.fromkeys(alike, 1.0))
        turns = max(len(gpu[m]["race"]["measured"]) for m in ratios)
        text = (
            f"Latency beside the raw engine, run in turns, each pair in {turns} races, {len(ratios)} models: median "
            f"ratio surgery / raw {statistics.median(ratios.values()):.3f}, geometric mean "
            f"{statistics.geometric_mean(ratios.values()):.3f}; {sum(r <= 1.05 for r in ratios.values())} are not "
            "slower by more than 5 %."
        )
        if alike:
            text += (
                f" {len(alike)} of the pairs count as 1: nothing has to be changed in the model and TensorRT gets "
                "the file as it came, or both engines are the same byte for byte. Measured they are "
                f"{min(alike.values()):.3f} to {max(alike.values()):.3f}, "
                f"{statistics.median(alike.values()):.3f} in the median, which is what building and measuring add."
            )
        slow = sorted(((r, m.removesuffix(".onnx")) for m, r in ratios.items() if r > 1.1), reverse=True)
        if slow:
            text += " Slower by more than 10 %: " + ", ".join(f"{m} ({r:.2f})" for r, m in slow) + "."
        lines += ["", *paragraph(text)]
    bad = [m for m in ran if m not in passed]
    if bad:
        lines += ["", "| not verified | why | raw engine |", "| --- | --- | --- |"]
        for m in sorted(bad):
            why = " ".join(str(ran[m].get("reason") or text_of(ran[m])).split())[:150].replace("|", "/")
            lines.append(f"| {stem(ran[m])} | {why} | {_raw_verdict(gpu[m].get('raw', {}))} |")
        same = sum(gpu[m].get("raw", {}).get("right") is False for m in bad)
        swapped = [m for m in bad if _moved(ran[m])]
        text = f"In {same} of these the raw engine differs from the original too, with the same numbers or message."
        if swapped:
            text += (
                f" In {len(swapped)} a few rows of detections are elsewhere: scores that differ in the last places "
                "decide their order, or which of two boxes stays."
            )
        lines += ["", *paragraph(text)]
    return lines


def _raw_verdict(raw: Mapping[str, Any]) -> str:
    if raw.get("right") is not None:
        return "agrees" if raw["right"] else "differs too"
    return "not built" if raw.get("ok") is False else ""


FEW_ROWS = 0.02
"""Part of the rows of detections that are elsewhere, at most, where their order is what differs."""


def _moved(line: Mapping[str, Any]) -> bool:
    """Whether a few rows differ, in an output of detections."""
    pattern = r"^case \S+: \w*(?:boxes|dets|indices|output)\w* differs .*\((\d+) of (\d+) differ"
    found = re.search(pattern, str(line["reason"]))
    return bool(found) and int(found[1]) / int(found[2]) <= FEW_ROWS


def gpu_verdict(lines: Mapping[str, Result]) -> bool | None:
    """Whether the engine agreed on the GPU; None if it was not run."""
    said = str(lines.get("surgery", {}).get("engine"))
    return said == "passed" if said in ("passed", "failed") else None


def _reached(
    good: Sequence[Result], given: Mapping[str, Result], gpu: Mapping[str, Mapping[str, Result]]
) -> list[str]:
    raw = any(r.get("raw") for r in good)
    heads = ["model", "pipeline", "nodes", "after", "largest difference", "engine", "build"]
    heads += ["raw"] * raw + ["given"] * bool(given) + ["GPU", "GPU time / raw"] * bool(gpu)
    lines = ["", "## Reached", ""]
    if raw:
        lines += ["`raw` is the model as it is: size and time of its engine, or what refuses it.", ""]
    lines += [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for r in good:
        seconds = (r.get("raw") or {}).get("surgery_seconds") or r["build_seconds"]
        cells = [stem(r), r["pipeline"], r["nodes"], r["nodes_after"], _number(r["max_abs"])]
        cells += [f"{r['bytes'] / 2**20:.1f} MiB", f"{seconds:.1f} s"]
        if raw:
            cells.append(_raw_cell(r.get("raw")))
        if given:
            cells.append(_given_cell(given.get(r["model"])))
        if gpu:
            cells += _gpu_cells(gpu.get(r["model"], {}))
        lines.append(f"| {' | '.join(str(c) for c in cells)} |")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _raw_cell(raw: Mapping[str, Any] | None) -> str:
    if not raw:
        return ""
    if raw["ok"]:
        return f"{raw['bytes'] / 2**20:.1f} MiB, {raw['build_seconds']:.1f} s"
    said = str(raw["message"]).partition(" ")[0].partition(":")[0]
    return f"refused: {said}" if said.isidentifier() else "refused by the builder"


def _given_cell(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return ""
    return _number(result["max_abs"]) or "yes" if reached(result) else _code(result)


def _gpu_cells(lines: Mapping[str, Result]) -> list[str]:
    verdict = gpu_verdict(lines)
    ratio = lines.get("race", {}).get("ratio")
    cell = "" if verdict is None else _number(lines["surgery"]["max_abs"]) if verdict else "differs"
    return [cell, "" if ratio is None else f"{ratio:.2f}"]
