"""Start-up time: ``import surgery`` and ``surgery --help``, each in a fresh process; both at most 0.3 s.

Run it on a quiet machine: ``python benchmarks/startup.py [REPEATS]``. Exits 1 if the limit is broken.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LIMIT_SECONDS = 0.3
CASES = {
    "python -c pass": ["-c", "pass"],
    "import surgery": ["-c", "import surgery"],
    "surgery --help": ["-m", "surgery", "--help"],
    "surgery list pipelines": ["-m", "surgery", "list", "pipelines"],
}
LIMITED = ("import surgery", "surgery --help")


def seconds(arguments: list[str], repeats: int) -> list[float]:
    """Wall times of a process, the first one (which fills caches) left out."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return times[1:]


def main() -> int:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    failed = False
    for name, arguments in CASES.items():
        times = seconds(arguments, repeats)
        best, middle = min(times), statistics.median(times)
        too_slow = name in LIMITED and middle > LIMIT_SECONDS
        failed = failed or too_slow
        verdict = f"  over {LIMIT_SECONDS} s" if too_slow else ""
        print(f"{name:<24} min {best:.3f} s  median {middle:.3f} s{verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
