from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("surgery", deadline=None)
settings.load_profile("surgery")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what commands print into tests/**/golden/*.txt"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare text with a golden file beside the test; `--update-golden` writes the file instead."""
    folder = Path(request.node.path).parent / "golden"

    def check(name: str, text: str) -> None:
        path = folder / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"no {path}; run pytest --update-golden and look at what it wrote"
        assert text == path.read_text(encoding="utf-8")

    return check


PARTS = 3
"""Of the slow tests of plugins, one in so many runs at a time: another one each day."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the parts of the slow tests of plugins that are not today's."""
    from tests.rotation import part

    slow = [i for i in items if "plugins" in i.path.parts and i.get_closest_marker("slow")]
    if len(slow) < PARTS * PARTS:
        return
    kept = set(map(id, part(slow, PARTS)))
    left = [i for i in slow if id(i) not in kept]
    gone = set(map(id, left))
    config.hook.pytest_deselected(items=left)
    items[:] = [i for i in items if id(i) not in gone]
