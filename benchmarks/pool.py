"""Child processes that do one model after the other, stay warm between them and may die."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]
Tell = Callable[[Line], None]


def serve(fd: int, work: Callable[[Path, Tell], None]) -> None:
    """In the child: do what the parent says, a path a line, and tell it over a pipe of its own."""
    with os.fdopen(fd, "w") as out:

        def tell(line: Line) -> None:
            out.write(json.dumps(line) + "\n")
            out.flush()

        for text in sys.stdin:
            path = Path(text.rstrip("\n"))
            work(path, tell)
            tell({"done": path.name})


class Child:
    """A process in a group of its own; its command gets the number of its pipe as the last argument."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._read, write = os.pipe()
        self._rest = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [*command, str(write)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=(write,),
            start_new_session=True,
            env={**os.environ, **environment},
        )
        os.close(write)

    def do(self, path: Path, deadline: float, tell: Tell) -> str | None:
        """Have one model done; why it was not, or None."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{path}\n".encode())
            self._process.stdin.flush()
        while True:
            while b"\n" in self._rest:
                first, _, self._rest = self._rest.partition(b"\n")
                line = json.loads(first)
                if "done" in line:
                    return None
                tell(line)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                return "not finished in time"
            more = os.read(self._read, 1 << 16)
            if not more:
                return f"the process ended with {self._process.wait()}: {self._last_words()}"
            self._rest += more

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-2:])[:300]

    def close(self) -> None:
        """End the group."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read)
        self._errors.close()


class Pool:
    """Threads that each feed one child from a list, until it is empty or the time is over.

    Args:
        command: Starts a child.
        environment: Its further variables.
        count: Children.
        limit: Seconds for one model.
        tell: Called with each line of a child; from any thread.
        failed: Called with a model that was not done, why, and the lines that it had told.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        count: int,
        limit: float,
        tell: Tell,
        failed: Callable[[Path, str, list[Line]], None],
    ) -> None:
        self._command, self._environment = command, environment
        self._count, self._limit, self._tell, self._failed = count, limit, tell, failed
        self._lock = threading.Lock()

    def run(
        self, paths: Sequence[Path], begin_until: float = float("inf"), end: float = float("inf")
    ) -> None:
        """Have the paths done in order; by time.monotonic(), nothing begins after one and goes on after the other."""
        waiting = list(reversed(paths))
        threads = [
            threading.Thread(target=self._feed, args=(waiting, begin_until, end))
            for _ in range(min(self._count, len(waiting)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _feed(self, waiting: list[Path], begin_until: float, end: float) -> None:
        child: Child | None = None
        while time.monotonic() < begin_until:
            with self._lock:
                if not waiting:
                    break
                path = waiting.pop()
            child = child or Child(self._command, self._environment)
            told: list[Line] = []

            def tell(line: Line, told: list[Line] = told) -> None:
                told.append(line)
                self._tell(line)

            why = child.do(path, min(end, time.monotonic() + self._limit), tell)
            if why is not None:
                self._failed(path, why, told)
                child.close()
                child = None
        if child is not None:
            child.close()
