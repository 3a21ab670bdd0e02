"""Rules from the user's files: read, checked with places, and applied by a pipeline."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import onnx
import onnx.parser
import pytest

import surgery
from surgery.errors import ConfigError
from surgery.rules.engine.pair import Pair
from surgery.rules.engine.rule import Lowering, Sample
from surgery.rules.engine.selfproof import apply_to_sample
from surgery.rules.engine.user_rules import load_rules

SQUARE = """\
name: square-by-product
why: A product is quicker than a power.
before: |
  (x) => (y) {
    two = Constant <value_float = 2.0> ()
    y = Pow (x, two)
  }
after: |
  (x) => (y) { y = Mul (x, x) }
samples:
  - "(float[n] x) => (float[n] y) { two = Constant <value_float = 2.0> () y = Pow (x, two) }"
  - text: "(double[3] x) => (double[3] y) { two = Constant <value = double {2.0}> () y = Pow (x, two) }"
    opset: 15
    feeds: {x: {low: 0, high: 3}}
near_misses:
  - "(float[n] x) => (float[n] y) { c = Constant <value_float = 3.0> () y = Pow (x, c) }"
"""

PYTHON = """\
from surgery.graph.pattern import constant, op, value
from surgery.rules.engine.pair import pair, pattern_rule
from surgery.rules.engine.rule import lowering

WHY = "for a test"


@lowering("relu-by-max", "Relu", why=WHY, samples=["(float[2] x) => (float[2] y) { y = Relu (x) }"], when="always")
def relu(site, b):
    return b.maximum(site.x(), b.const(0, site.dtype()))


@pattern_rule("exp-of-log", op("Exp", op("Log", value("x"))), why=WHY, samples=[], when="always")
def exp_of_log(site, b):
    return b.op("Identity", site.name("x"))


twice = pair(
    "sum-of-one", before="(x) => (y) { y = Sum (x) }", after="(x) => (y) { y = Identity (x) }", why=WHY, samples=[]
)
"""


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(dedent(text), encoding="utf-8")
    return path


def wrong(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = write(folder, text, name)
    with pytest.raises(ConfigError) as caught:
        load_rules([path])
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{folder}/", "")


# -- YAML -----------------------------------------------------------------------------------------------


def test_a_rule_in_yaml(tmp_path: Path) -> None:
    (rule,) = load_rules([write(tmp_path, SQUARE)])
    assert isinstance(rule, Pair)
    assert (rule.name, rule.when) == ("square-by-product", "always")
    assert (rule.since, rule.until, rule.targets) == (1, None, ())
    assert rule.samples[1].opset == 15
    assert rule.samples[1].feeds == {"x": (0, 3)}
    for sample in rule.samples:
        assert apply_to_sample([rule], sample).outcome.edits[0].verified == "passed"
    for sample in rule.near_misses:
        assert not apply_to_sample([rule], sample).outcome.edits


def test_several_rules_in_one_file(tmp_path: Path) -> None:
    text = """\
        rules:
          - name: a
            why: w
            when: refused
            since: 13
            until: 17
            targets: [tensorrt-rtx]
            before: "(x) => (y) { y = Relu (x) }"
            after: "(x) => (y) { y = Abs (x) }"
          - {name: b, why: w, before: "(x) => (y) { y = Abs (x) }", after: "(x) => (y) { y = Abs (x) }"}
        """
    a, b = load_rules([write(tmp_path, text)])
    assert (a.name, b.name) == ("a", "b")
    assert (a.when, a.since, a.until, a.targets) == ("refused", 13, 17, ("tensorrt-rtx",))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("why: A", "reason: A", "mine.yaml:2:1: reason: unknown key; known keys: name, why, before"),
        ("after: |", "afterr: |", "mine.yaml:8:1: afterr: unknown key; did you mean 'after'?"),
        ("square-by-product", "Square", "mine.yaml:1:7: name: "),
        ("why: A product is quicker than a power.\n", "why: 3\n", "mine.yaml:2:6: why: must be text, got 3"),
        ("Pow (x, two)\n  }", "Pow (x two)\n  }", "mine.yaml:6:16: before: Expected character )"),
        ("=> (y) { y = Mul", "=> (y) { y == Mul", "mine.yaml:9:"),
        ("(x) => (y) { y = Mul", "(x, z) => (y) { y = Mul", "mine.yaml:8:8: after: has the inputs x, z"),
        ('s:\n  - "(float[n] x) =>', 's:\n  - "(float[n] x) =', "mine.yaml:16:5: near_misses[0]"),
        ("opset: 15", "opset: 0", "mine.yaml:13:12: samples[1].opset: must be greater than 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_yaml_is_said_with_its_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SQUARE
    assert message in wrong(tmp_path, SQUARE.replace(old, new))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = """\
        rules:
          - name: a
            before: "(x) => (y) { y = Relu (x) }"
            after: "(x) => (y) { y = Abs (x) }"
          - name: b
            why: w
            before: "(x) => (y) { y = Relu (x) }"
            after: 3
        """
    message = wrong(tmp_path, text)
    assert "why: missing" in message
    assert "after: must be text, got 3" in message


# -- Python ---------------------------------------------------------------------------------------------


def test_rules_in_python(tmp_path: Path) -> None:
    rules = load_rules([write(tmp_path, PYTHON, "mine.py")])
    assert [(r.name, r.form) for r in rules] == [
        ("relu-by-max", "lowering"),
        ("exp-of-log", "pattern"),
        ("sum-of-one", "pair"),
    ]
    assert isinstance(rules[0], Lowering)
    assert apply_to_sample([rules[0]], rules[0].samples[0]).outcome.edits
    logs = Sample("(float[4] x) => (float[4] y) { l = Log (x) y = Exp (l) }", feeds={"x": (1, 2)})
    assert apply_to_sample([rules[1]], logs).outcome.edits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 3\n", "mine.py: holds no rule"),
        ("import surgery\n\ndef f(:\n", "mine.py:3:7: not valid Python"),
        ("a = 1\nb = a / 0\n", "mine.py:2:1: ZeroDivisionError"),
        (
            "from surgery.rules.engine.pair import pair\n\n"
            "r = pair('r', before='(x) => (y) { y = }', after='', why='', samples=[])\n",
            "mine.py:3:1: before: ",
        ),
    ],
)
def test_what_is_wrong_in_python_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    assert message in wrong(tmp_path, text, "mine.py")


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert "mine.txt: is neither YAML nor Python" in wrong(tmp_path, "", "mine.txt")


def test_names_are_taken_once(tmp_path: Path) -> None:
    first, second = write(tmp_path, SQUARE, "a.yaml"), write(tmp_path, SQUARE, "b.yaml")
    with pytest.raises(ConfigError, match=r"b.yaml:1:7.*already in .*a.yaml"):
        load_rules([first, second])
    (known,) = load_rules([first])
    with pytest.raises(ConfigError, match="the rules that come with surgery"):
        load_rules([second], [known])


# -- in a pipeline --------------------------------------------------------------------------------------


MODEL = (
    '<ir_version: 10, opset_import: ["" : 18]> g (float[n, 3] x) => (float[n, 3] y) '
    "{ two = Constant <value_float = 2.0> () r = Relu (x) p = Pow (r, two) t = Transpose (p) y = Transpose (t) }"
)


def run(folder: Path, options: str) -> Any:
    text = f"schema: 1\nstages:\n  - rewrite:\n{options}  - save\n"
    return surgery.run(
        write(folder, text, "pipeline.yaml"), onnx.parser.parse_model(MODEL), target="tensorrt-10.16"
    )


def kinds(report: Any) -> list[str]:
    return [n.op_type for n in report.model.graph.node]


def test_a_pipeline_applies_the_rules_of_a_file(tmp_path: Path) -> None:
    write(tmp_path, SQUARE)
    report = run(tmp_path, "      rule_files: [mine.yaml]\n")
    assert report.exit_code == 0, report.failure
    assert kinds(report) == ["Relu", "Mul", "Transpose", "Transpose"]
    assert [e.rule for e in report.edits] == ["square-by-product"]


def test_a_pipeline_asks_for_optional_rules(tmp_path: Path) -> None:
    report = run(tmp_path, "      rules: true\n")
    assert "Transpose" in kinds(report)
    report = run(tmp_path, "      optional_rules: [transpose-of-transpose]\n")
    assert "Transpose" not in kinds(report)


def test_rules_that_apply_nowhere_are_told(tmp_path: Path) -> None:
    write(tmp_path, SQUARE.replace("2.0> ()\n    y", "3.0> ()\n    y"))
    report = run(tmp_path, "      rule_files: [mine.yaml]\n")
    assert any(
        w.startswith("your rule square-by-product applies nowhere; nearest: at")
        and "input 1 is 2.0, not 3.0" in w
        for w in report.warnings
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("      rule_files: [none.yaml]\n", "pipeline.yaml:4:20: no such file"),
        (
            "      optional_rules:\n        - transpose-of-transposes\n",
            "pipeline.yaml:5:11: no rule is named 'transpose-of-transposes'",
        ),
        ("      optional_rules: [count-of-nonzero]\n", "the rule 'count-of-nonzero' is not optional"),
    ],
)
def test_wrong_options_are_told_with_their_place(tmp_path: Path, options: str, message: str) -> None:
    report = run(tmp_path, options)
    assert report.exit_code == 2
    assert message in report.failure.message


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("return b.maximumm(site.x(), site.x())", "mine.py:10", "AttributeError: 'Body' object"),
        ("return 1 / 0", "mine.py:10", "ZeroDivisionError"),
        ("return 3", "mine.py:8", "rule relu-by-max gives 3; it has to give the names"),
    ],
)
def test_a_mistake_in_a_function_of_a_rule_is_told_with_its_line(
    tmp_path: Path, line: str, place: str, words: str
) -> None:
    """Where the rule is applied: the file was read without a complaint."""
    text = PYTHON.replace("return b.maximum(site.x(), b.const(0, site.dtype()))", line)
    path = write(tmp_path, text, "mine.py")
    rules = load_rules([path])
    with pytest.raises(ConfigError) as caught:
        apply_to_sample([rules[0]], rules[0].samples[0])
    error = caught.value
    assert (error.code, error.exit_code) == ("bad-rules", 2)
    assert words in error.message
    assert str(error.where).endswith(place)
