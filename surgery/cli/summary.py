"""The last words of a run, as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.text import fitted

if TYPE_CHECKING:
    from surgery.report import Report

_MEANING = {
    "onnx": "the model, runs in ONNX Runtime",
    "onnx_target": "what the target's parser gets",
    "engine": "the engine",
    "pre": "the preprocessing that was cut off",
    "inputs": "values given with --inputs, for verify",
    "log": "TensorRT's log",
    "report_html": "the report, for people",
}
_STATUS = {
    "ok": "ok: engine built, verified on this GPU",
    "ok-unverified-engine": "ok, but no GPU has run the engine; where there is one: surgery verify DIR",
    "prepared": "prepared: no engine was built",
    "failed": "failed",
}


def summary(report: Report, folder: Path | None) -> str:
    """Status, files and verification, one thing a line.

    Args:
        report: Of the run.
        folder: Where its files are, or None if it wrote none.
    """
    status = _STATUS[report.status]
    if folder is not None:
        status = status.replace("DIR", str(folder))
    if report.status == "prepared" and report.target.get("installed") is False:
        status += f", {report.target['name']} is not installed here"
    lines = [f"status   {status}"]
    if report.target:
        lines.append(f"target   {report.target['name']}")
    if report.pipeline.get("chosen_by"):
        because = f" ({report.pipeline['because']})" if report.pipeline["because"] else ""
        lines.append(f"pipeline {report.pipeline['name']}: {report.pipeline['family']}{because}")
    lines += _shapes(report)
    lines += [f"changed  {c.name}: {c.what}" for c in report.io_changes]
    lines += [f"{level:<8} {_verification(report.verification[level])}" for level in ("graph", "engine")]
    lines += _files(report, folder)
    if report.previous:
        lines.append(f"kept     {', '.join(report.previous['files'])} (of an earlier run)")
    return fitted("\n".join(lines), 9)


def _shapes(report: Report) -> list[str]:
    """What sizes the engine takes; one line for each input that has several."""
    if report.status == "failed":
        return []
    lines = []
    derived = False
    for profile in report.profiles:
        low, best, high = ("x".join(map(str, profile[k])) or "a number" for k in ("min", "opt", "max"))
        if low != high:
            lines.append(f"shapes   {profile['input']}: {low} to {high}, best at {best}")
            derived = derived or profile["source"].startswith("derived")
    if derived:
        lines.append("         derived from the model; those of your use: --shape NAME=MIN:OPT:MAX")
    return lines


def _verification(level: dict[str, Any]) -> str:
    status = str(level["status"])
    if status.startswith("not run"):
        reason = level.get("reason")
        return status if not reason or reason in status else f"{status}: {reason}"
    cases = level["cases"]
    if not cases and level.get("reason"):
        return f"{status}: {level['reason']}"
    text = f"{status} on {len(cases)} inputs"
    errors = [o["max_abs"] for c in cases for o in c.get("outputs", ()) if _number(o.get("max_abs"))]
    if errors:
        text += f", largest difference {max(errors):.3g}"
    return f"{text}: {level['reason']}" if status == "failed" and level.get("reason") else text


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _files(report: Report, folder: Path | None) -> list[str]:
    if folder is None:
        return []
    found = [(Path(a["path"]).name, _MEANING.get(k, k)) for k, a in report.artifacts.items() if a]
    if report.exit_code != 0:
        found += [(p.name, "the model when the run failed") for p in sorted(folder.glob("*.failed.onnx"))]
    if (report.exit_code in (4, 5, 6) or report.artifacts["onnx"]) and (folder / "report.json").is_file():
        found.append(("report.json", "everything found, done, checked and written"))
    if not found:
        return []
    width = max(len(name) for name, _ in found)
    return [f"files    in {folder}", *(f"  {name:<{width}}  {meaning}" for name, meaning in found)]
