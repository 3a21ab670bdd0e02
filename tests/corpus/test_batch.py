"""`batch: dynamic` on real exports: those that come with a fixed batch, and dynamic ones made static first.

Making static is what simplifiers do: the sizes of the inputs are written into the file, and what follows from them
is folded into constants. docs/batch.md has the results. A part of the models is run each day (SURGERY_PART=all: all).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from surgery.errors import SurgeryError
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.infer import dims_of
from surgery.graph.load import LoadedModel, load_model
from surgery.plugins.adopt import adopt_plugins
from surgery.plugins.registry import Registry
from surgery.report import Edit
from surgery.stages.batch import free_batch
from tests.corpus.test_auto import found
from tests.heads.ssd_models import CORPUS
from tests.rotation import part

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="the folder of exported models is not here"),
]

PAGE = Path(__file__).parents[2] / "docs" / "batch.md"
EXPORTED = CORPUS.parent / "exported"
PARTS = 5
SMALL = 30e6
MOST = 240


def recorded(title: str) -> dict[str, str]:
    """Model to result in a table of the page."""
    text = PAGE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    return {m: r for m, r in re.findall(r"^\| (\w[\w.-]*) \| ([^|]+) \|", text, re.MULTILINE) if m != "model"}


FIXED = recorded("Models with a fixed batch")
STATIC = recorded("Dynamic models made static")
WORKS = "works"
DECIDED = (WORKS, "no-batch")
"""Results that are about the batch; others say that the original is no model that runs."""


def made_static(name: str) -> onnx.ModelProto:
    """A model with a batch of one and the sizes of the corpus' profile, folded."""
    index = json.loads((EXPORTED / "index.json").read_text())[name]
    model = onnx.load(EXPORTED / f"{name}.onnx")
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.ClearField("dim_param")
                dim.dim_value = index["profile"][value.name][1][axis] if axis else 1
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph, header = import_graph(onnx.shape_inference.infer_shapes(model, data_prop=True))
    fold_constants(graph)
    return export_graph(graph, header)


def free(source: LoadedModel) -> tuple[LoadedModel, Edit]:
    registry = Registry.load([])
    return free_batch(source, lambda proto: adopt_plugins(proto, registry)[0])


def outcome(source: LoadedModel) -> str:
    """`works`, or the code of the refusal."""
    try:
        free(source)
    except SurgeryError as error:
        return error.code
    return WORKS


@pytest.mark.parametrize("name", part([n for n, r in sorted(FIXED.items()) if r in DECIDED], PARTS))
def test_models_with_a_fixed_batch(name: str) -> None:
    assert outcome(load_model(found(name))) == FIXED[name]


@pytest.mark.parametrize("name", part(sorted(STATIC), PARTS))
def test_dynamic_models_made_static(name: str) -> None:
    assert outcome(load_model(made_static(name))) == STATIC[name]


def test_enough_of_them_work() -> None:
    assert sum(r == WORKS for r in FIXED.values()) >= 12
    assert sum(r == WORKS for r in STATIC.values()) >= 30


def same(one: Any, two: Any) -> bool:
    return one.shape == two.shape and np.allclose(one, two, rtol=1e-3, atol=1e-3, equal_nan=True)


def values(name: str) -> Path:
    return EXPORTED / "inputs" / f"{name.partition('.')[0]}.npz"


COMPARED = [n for n, r in sorted(STATIC.items()) if r == WORKS and values(n).is_file()]


@pytest.mark.parametrize("name", part(COMPARED, PARTS))
def test_the_result_is_what_the_dynamic_export_computes(name: str) -> None:
    """Freed again, the model computes for a batch what it did before it was made static."""
    again = free(load_model(made_static(name)))[0].proto
    with np.load(values(name)) as file:
        feeds = {n: file[n] for n in file.files}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in again.graph.input}
    if any(list(feeds[n].shape[1:]) != shape[1:] for n, shape in shapes.items()):
        pytest.skip("the values that come with the model have other sizes")
    export = Evaluator(EXPORTED / f"{name}.onnx")
    try:
        wanted = export.run(feeds)
    except EvaluationError:
        pytest.skip("the dynamic export does not run on the values that come with it")
    made = Evaluator(again)
    for key, value in made.run(feeds).items():
        if not same(value, wanted[key]):  # some exports mix samples: then it is to be right for each alone
            count = len(next(iter(feeds.values())))
            rows = [{n: v[i : i + 1] for n, v in feeds.items()} for i in range(count)]
            alone = [export.run(r)[key] for r in rows]
            assert not all(same(w, wanted[key][i : i + 1]) for i, w in enumerate(alone)), key
            assert all(same(value[i : i + 1], w) for i, w in enumerate(alone)), key


def fixed_models() -> list[str]:
    """Models all of whose inputs begin with a fixed size."""
    names = []
    for path in sorted([*EXPORTED.glob("*.onnx"), *CORPUS.glob("*.onnx")]):
        graph = onnx.load(path, load_external_data=False).graph
        weights = {t.name for t in graph.initializer}
        shapes = [dims_of(v) for v in graph.input if v.name not in weights]
        if shapes and all(s and isinstance(s[0], int) for s in shapes):
            names.append(path.stem)
    return names


def dynamic_models() -> list[str]:
    """Models all of whose inputs begin with a free batch, and that are small."""
    index = json.loads((EXPORTED / "index.json").read_text())
    return sorted(
        name
        for name, entry in index.items()
        if entry["onnxruntime_runs"]
        and entry["inputs"]
        and all(i["shape"] and i["shape"][0] == "batch" for i in entry["inputs"])
        and (EXPORTED / f"{name}.onnx").stat().st_size <= SMALL
    )


def row(name: str, source: LoadedModel) -> str:
    try:
        edit = free(source)[1]
    except SurgeryError as error:
        return (
            f"| {name} | {error.code} | | {error.message.partition('made dynamic: ')[2] or error.message} |"
        )
    error = edit.max_abs_error
    return f"| {name} | {WORKS} | {f'{error:.1e}' if error else 0} | {edit.assumptions[1]} |"


def test_the_page_has_every_model(request: pytest.FixtureRequest) -> None:
    """`--update-golden` measures all of them and writes the tables (ten minutes)."""
    if request.config.getoption("--update-golden"):
        tables = {
            "Models with a fixed batch": [row(n, load_model(found(n))) for n in fixed_models()],
            "Dynamic models made static": [row(n, load_model(made_static(n))) for n in dynamic_models()],
        }
        PAGE.write_text(filled(PAGE.read_text(), tables))
    assert sorted(recorded("Models with a fixed batch")) == sorted(fixed_models())
    assert sorted(recorded("Dynamic models made static")) == dynamic_models()


def filled(text: str, tables: dict[str, list[str]]) -> str:
    head = ["| model | result | largest difference | how, or why not |", "| --- | --- | --- | --- |"]
    for title, rows in tables.items():
        count = sum(f"| {WORKS} |" in r for r in rows)
        lines = [f"{count} of {len(rows)} work.", "", *head, *(shortened(r) for r in rows)]
        before, _, rest = text.partition(f"## {title}\n")
        lead, _, rest = rest.partition("<!-- begin -->\n")
        after = rest.partition("<!-- end -->")[2]
        text = "\n".join(
            [f"{before}## {title}", f"{lead}<!-- begin -->", "", *lines, "", f"<!-- end -->{after}"]
        )
    return text


def shortened(line: str) -> str:
    return line if len(line) <= MOST else line[: MOST - 5].rstrip() + "... |"
