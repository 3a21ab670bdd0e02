"""The documentation names what there is: every key, option, exit code, file."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from surgery import errors
from surgery.cli.show import kind_text, option_rows, value_text
from surgery.config_schema import class_schema, pipeline_schema, stage_schema
from surgery.report import Report
from surgery.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="only in a checkout")


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def keys(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = []
    for name, node in schema["properties"].items():
        plain = "$ref" not in str(node) and "anyOf" not in node.get("items", {})
        kind = kind_text(node) if plain else {"array": "list"}.get(node["type"], "mapping")
        default = "required" if name in required else _default(node.get("default"))
        rows.append([f"`{name}`", kind, default, node.get("description", "")])
    return table(["key", "type", "default", "meaning"], rows)


def _default(value: Any) -> str:
    return "" if value in (None, "", [], {}) else f"`{value_text(value)}`"


def stages() -> str:
    parts = []
    for name in STAGES:
        schema = stage_schema(name)
        parts.append(f"### {name}\n\n{schema['description']}")
        rows = [
            [f"`{n}`", kind, default, meaning] for n, kind, default, meaning in option_rows(schema, schema)
        ]
        if rows:
            parts.append(table(["option", "type", "default", "meaning"], rows))
    return "\n\n".join(parts)


def reference() -> dict[str, str]:
    schema = pipeline_schema()
    return {
        "file": keys(schema),
        "cuts": keys(schema["$defs"]["CutSpec"]),
        "profiles": keys(schema["$defs"]["Profile"]),
        "stages": stages(),
    }


def rules() -> str:
    """One table for each module of rules."""
    from surgery.rules import rules_by_module
    from surgery.rules.engine.describe import applies, operators

    parts = []
    for module, found in rules_by_module().items():
        parts.append(f"### {first_line(module)}")
        rows = [[f"`{r.name}`", operators(r, short=True), applies(r), " ".join(r.why.split())] for r in found]
        parts.append(table(["rule", "operators", "applied", "why"], rows))
    return "\n\n".join(parts)


def first_line(module: str) -> str:
    doc = importlib.import_module(module).__doc__ or module
    return doc.strip().splitlines()[0].rstrip(".")


def check_part(name: str, part: str, wanted: str, update: bool) -> None:
    begin = re.compile(rf"(<!-- {part}: begin.*?-->\n)(.*?)(<!-- {part}: end -->)", re.DOTALL)
    document = text(name)
    found = begin.search(document)
    assert found is not None
    if update:
        changed = f"{document[: found.end(1)]}\n{wanted}\n\n{document[found.start(3) :]}"
        (DOCS / name).write_text(changed, encoding="utf-8")
    else:
        assert found[2] == f"\n{wanted}\n\n", "run pytest tests/test_docs.py --update-golden"


@pytest.mark.parametrize("part", ["file", "cuts", "profiles", "stages"])
def test_pipeline_reference_is_what_the_schema_says(part: str, request: pytest.FixtureRequest) -> None:
    check_part("pipelines.md", part, reference()[part], request.config.getoption("--update-golden"))


def test_the_keys_of_a_rule_are_what_the_schema_says(request: pytest.FixtureRequest) -> None:
    from surgery.rules.engine.user_rules import RuleEntry

    wanted = keys(class_schema(RuleEntry))
    check_part("rules.md", "rule", wanted, request.config.getoption("--update-golden"))


def test_the_tables_of_rules_are_what_the_rules_say(request: pytest.FixtureRequest) -> None:
    check_part("rules.md", "rules", rules(), request.config.getoption("--update-golden"))


@pytest.mark.parametrize("language", ["yaml", "python"])
def test_the_shown_rules_are_valid(language: str, tmp_path: Path) -> None:
    from surgery.rules.engine.selfproof import apply_to_sample
    from surgery.rules.engine.user_rules import load_rules

    example = re.search(rf"```{language}\n(# rules file\n.*?)```", text("rules.md"), re.DOTALL)
    assert example is not None
    file = tmp_path / ("mine.yaml" if language == "yaml" else "mine.py")
    file.write_text(example[1], encoding="utf-8")
    for rule in load_rules([file]):
        for sample in rule.samples:
            assert [e.verified for e in apply_to_sample([rule], sample).outcome.edits] == ["passed"]


def test_every_key_of_the_report_is_documented() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", text("report.md"), re.MULTILINE)
    assert documented == list(Report().to_dict())


def test_every_artifact_is_documented() -> None:
    row = next(line for line in text("report.md").splitlines() if line.startswith("| `artifacts` |"))
    assert re.findall(r"`(\w+)`", row)[3:] == list(Report().artifacts)


@pytest.mark.parametrize("document", ["docs/exit-codes.md", "README.md"])
def test_every_exit_code_is_documented(document: str) -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.SurgeryError)]
    codes = {c.exit_code for c in classes} | {0, 130}
    found = re.findall(r"^\| (\d+) \|", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(map(int, found)) == sorted(codes)


@pytest.mark.parametrize(
    "document", ["README.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in sorted(DOCS.glob("*.md")))]
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert not missing


def test_the_shown_pipeline_is_valid(tmp_path: Path) -> None:
    from surgery.config import load_pipeline

    example = re.search(r"```yaml\n(schema: 1\n.*?)```", text("pipelines.md"), re.DOTALL)
    assert example is not None
    file = tmp_path / "mine.yaml"
    file.write_text(example[1], encoding="utf-8")
    assert [s.name for s in load_pipeline(file).stages] == list(STAGES)


def test_make_targets_of_the_documentation_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    documents = [ROOT / "README.md", *DOCS.glob("*.md")]
    named = {
        t for d in documents for t in re.findall(r"(?:`|\$ )make ([a-z][a-z-]+)\b", d.read_text("utf-8"))
    }
    assert {"demo", "test"} <= named
    assert {t for t in named if not re.search(rf"^{t}:", makefile, re.MULTILINE)} == set()
