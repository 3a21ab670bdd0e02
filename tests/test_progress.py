"""What a run looks like while it works."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from surgery.pipeline import LogLine, StageFinished, StageProgress, StageStarted
from surgery.progress import PlainLines, progress


def terminal() -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=100, color_system=None, legacy_windows=False
    )


def text(console: Console) -> str:
    """What was written, without the codes that move the cursor."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", console.file.getvalue())


def test_not_a_terminal_gets_one_plain_line_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as listener:
        listener(StageStarted(1, 2, "inspect"))
        listener(StageProgress("inspect", "looking", 0.5))
        listener(LogLine("INFO", "a line of TensorRT"))
        listener(StageFinished("inspect", 0.25, False, "412 nodes"))
        listener(StageStarted(2, 2, "fold"))
        listener(StageFinished("fold", 12.0, True, "30 nodes folded"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["inspect", "0.2", "s", "412", "nodes"],
        ["fold", "12.0", "s", "30", "nodes", "folded"],
    ]


def test_a_stage_that_takes_long_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainLines(every=0.05) as lines:
        lines(StageStarted(1, 2, "verify"))
        lines(StageProgress("verify", "case 2 of 7", 0.25))
        time.sleep(0.4)
        lines(StageFinished("verify", 0.4, False, "done"))
        said = capsys.readouterr().out.splitlines()
        time.sleep(0.2)
    after = capsys.readouterr().out
    assert 2 <= len(said) <= 9
    for line in said[:-1]:
        assert re.fullmatch(r"verify +\d\.\d s  \.\.\. 25% case 2 of 7", line)
    assert said[-1].split() == ["verify", "0.4", "s", "done"]
    assert after == ""  # between stages there is nothing to say


def test_a_terminal_shows_the_stage_its_time_and_its_last_words() -> None:
    console = terminal()
    with progress(console) as listener:
        listener(StageStarted(1, 8, "build"))
        listener(StageProgress("build", "first words", 0.25))
        console.print(listener)
        listener(LogLine("INFO", "tactic [red]chosen[/red]\nsecond line"))
        console.print(listener)
    shown = text(console)
    assert "build (1/8)" in shown
    assert "25% first words" in shown
    assert "tactic [red]chosen[/red]" in shown  # a log is not markup
    assert "second line" not in shown


def test_a_terminal_keeps_a_table_of_the_stages() -> None:
    console = terminal()
    with progress(console) as listener:
        listener(StageStarted(1, 2, "inspect"))
        listener(StageFinished("inspect", 0.25, False, "412 nodes [a:0]"))
    end = text(console).splitlines()[-2:]
    assert [line.split() for line in end] == [
        ["stage", "seconds", "what", "it", "did"],
        ["inspect", "0.2", "412", "nodes", "[a:0]"],
    ]


def test_the_table_is_there_after_an_error_and_names_the_stage() -> None:
    console = terminal()

    def work() -> None:
        with progress(console) as listener:
            listener(StageStarted(1, 2, "inspect"))
            listener(StageFinished("inspect", 0.5, False, "fine"))
            listener(StageStarted(2, 2, "parse"))
            raise KeyError

    with pytest.raises(KeyError):
        work()
    last = text(console).splitlines()[-1].split()
    assert (last[0], last[2]) == ("parse", "failed")


def test_nothing_is_drawn_for_a_run_without_events() -> None:
    console = terminal()
    with progress(console):
        pass
    assert "stage" not in text(console)


def test_a_long_summary_is_broken_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"rule-{i:02d}" for i in range(60)]
    lines = PlainLines()
    lines(StageFinished("rewrite", 1.0, True, " ".join(words)))
    lines(StageFinished("save", 1.0, True, "x" * 100))
    *long, short = capsys.readouterr().out.splitlines()
    assert len(long) > 1
    assert max(map(len, long)) <= 120
    assert all(line.startswith(" " * 22) for line in long[1:])
    assert " ".join(" ".join(long).split()).endswith(" ".join(words))
    assert short == "save           1.0 s  " + "x" * 100
