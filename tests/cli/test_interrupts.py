"""Ctrl-C is exit 130, whatever exception a library makes of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import onnx.parser
import pytest
import typer

from surgery.cli.execute import execute
from surgery.cli.interrupts import interrupted, watched
from surgery.graph.evaluate import Evaluator
from surgery.pipeline import Listener
from surgery.report import Report


@pytest.fixture(autouse=True)
def at_a_terminal() -> Iterator[None]:
    """Ctrl-C is on, as at a terminal; shells start what runs in the background with it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def loading(_: Listener | None) -> Report:
    """What pybind11 does with a Ctrl-C while a module is initialized."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)  # the signal ends it
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error
    raise AssertionError


def broken(_: Listener | None) -> Report:
    raise ImportError("initialization failed")


@pytest.mark.parametrize(("work", "code"), [(loading, 130), (broken, 70)])
def test_an_interrupted_import_is_an_interruption(
    work: object, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with watched(), pytest.raises(typer.Exit) as ended:
        execute(work, as_json=False, folder=lambda: None)  # type: ignore[arg-type]
    assert ended.value.exit_code == code
    said = capsys.readouterr().err
    assert ("error[interrupted]" in said) == (code == 130)
    assert ("Traceback" in said, "a bug" in said) == (False, code == 70)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_onnx_runtime_runs_is_interrupted() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> endless (float[4] x) => (float[4] y) {
            most = Constant <value = int64 {9223372036854775807}> ()
            y = Loop (most, , x) <body = turn (int64 i, bool go, float[4] before) => (bool again, float[4] next) {
                next = Abs (before) again = Identity (go)
            }>
        }"""
    )
    session, begun = Evaluator(model), time.monotonic()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with watched(), pytest.raises(KeyboardInterrupt):
        session.run({"x": np.ones(4, np.float32)}, seconds=60)
    assert time.monotonic() - begun < 30
    assert interrupted()
    assert signal.set_wakeup_fd(-1) == -1


def test_each_command_starts_anew() -> None:
    with watched(), pytest.raises(ImportError):
        loading(None)
    assert interrupted()
    with watched():
        assert not interrupted()
