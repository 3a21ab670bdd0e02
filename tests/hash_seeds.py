"""What must not depend on the order of hashes, seen in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys


def printed_under_two_seeds(script: str, *arguments: str) -> str:
    """What a script prints, which is the same whatever hashes are made with.

    Args:
        script: Python text; it can import what the calling test can.
        arguments: Of the script.
    """

    def printed(seed: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return done.stdout

    first = printed("1")
    assert printed("2") == first
    return first
