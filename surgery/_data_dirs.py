"""Where the folders that ship with the package are: `plugins` and `pipelines`."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_dir(name: str) -> Path:
    """The shipped folder `plugins` or `pipelines`.

    An installed wheel carries it as ``surgery/_data/<name>``; in a checkout it lies beside the package.

    Raises:
        FileNotFoundError: neither is there, so the installation is broken.
    """
    candidates = (_PACKAGE / "_data" / name, _PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no shipped folder {name!r}; looked at {', '.join(map(str, candidates))}")
