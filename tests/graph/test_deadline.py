"""Runs of models that never end: they are stopped, with one error, wherever ONNX Runtime runs them."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnx.parser
import pytest

import surgery
from surgery.config import PipelineConfig
from surgery.graph import deadline
from surgery.graph.deadline import EndlessError
from surgery.graph.evaluate import Evaluator, evaluate_somehow
from surgery.verify.runner import run_onnx
from surgery.verify.search import Search

LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
endless (float[4] x) => (float[4] y) {
   most = Constant <value = int64 {9223372036854775807}> ()
   y = Loop (most, , x) <body = turn (int64 i, bool go, float[4] before) => (bool again, float[4] next) {
      next = Abs (before)
      total = ReduceSum <keepdims = 0> (next)
      limit = Constant <value = float {-1.0}> ()
      again = Greater (total, limit)
   }>
}
"""
FEEDS = {"x": np.ones(4, np.float32)}


@pytest.fixture
def endless() -> onnx.ModelProto:
    return onnx.parser.parse_model(LOOP)


def test_an_endless_run_is_stopped_and_the_session_lives_on(endless: onnx.ModelProto) -> None:
    session = Evaluator(endless)
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(EndlessError, match=r"still running the model after 0\.3 s") as caught:
            session.run(FEEDS, seconds=0.3)
        assert 0.3 <= time.monotonic() - begun < 20
        assert caught.value.code == "run-without-end"


def test_a_short_limit_is_met_while_a_long_one_is_waited_for(endless: onnx.ModelProto) -> None:
    begun = time.monotonic()
    with deadline.deadline(3600) as options:
        with pytest.raises(EndlessError):
            Evaluator(endless).run(FEEDS, seconds=0.3)
        assert not options.terminate
    assert time.monotonic() - begun < 20


def test_a_run_that_ends_is_left_alone() -> None:
    model = onnx.parser.parse_model(LOOP.replace("9223372036854775807", "3"))
    assert np.array_equal(Evaluator(model).run(FEEDS, seconds=60)["y"], FEEDS["x"])


def test_no_second_engine_is_tried_on_an_endless_model(
    endless: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "MOST_SECONDS", 0.3)
    with pytest.raises(EndlessError):
        evaluate_somehow(endless, FEEDS)


def test_runs_of_one_piece_of_work_share_what_time_there_is(endless: onnx.ModelProto) -> None:
    session, begun = Evaluator(endless), time.monotonic()
    with deadline.at_most(0.3):
        for _ in range(5):
            with pytest.raises(EndlessError):
                session.run(FEEDS)
    assert 0.3 <= time.monotonic() - begun < 20
    model = onnx.parser.parse_model(LOOP.replace("9223372036854775807", "3"))
    assert np.array_equal(Evaluator(model).run(FEEDS)["y"], FEEDS["x"])


def test_the_runner_says_which_model_does_not_end(endless: onnx.ModelProto) -> None:
    with pytest.raises(EndlessError, match=r"^the original: ONNX Runtime was still running"):
        run_onnx(endless, [FEEDS], "the original", seconds=0.3)


def test_the_search_for_values_ends_with_the_first_endless_run(
    endless: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "MOST_SECONDS", 0.3)
    with pytest.raises(EndlessError, match=r"^the original: "):
        Search(endless, endless).judge(FEEDS)


def test_a_whole_run_fails_with_one_error(endless: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "MOST_SECONDS", 0.5)
    config = PipelineConfig.model_validate({"schema": 1, "name": "small", "stages": ["verify"]})
    report = surgery.run(config, endless)
    assert report.exit_code == 6
    assert report.failure is not None
    assert (report.failure.code, report.failure.stage) == ("run-without-end", "verify")
    assert "0.5 s" in report.failure.message
    assert report.engine is None
    assert report.verification["graph"]["status"] == "not run: not reached, the stage verify failed"
