"""Reading option values: NAME=VALUE pairs, shapes, files of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import ConfigError
from surgery.shape_text import Shape, read_range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHAPE_EXAMPLE = "write --shape image=1x3x300x300 or --shape image=1x3x300x300:4x3x300x300:8x3x300x300"


def split_pair(option: str, text: str, example: str, *, last: bool = False) -> tuple[str, str]:
    """NAME and VALUE of ``NAME=VALUE``, at the first ``=`` or at the last.

    Raises:
        ConfigError: it is something else.
    """
    name, equals, value = text.rpartition("=") if last else text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(
            f"expected NAME=VALUE, got {text!r}", code="bad-option", where=option, fix=f"write {example}"
        )
    return name.strip(), value.strip()


def parse_sets(texts: Sequence[str]) -> dict[str, str]:
    """Overrides of ``--set KEY=VALUE``; values stay text and are read as YAML later.

    Raises:
        ConfigError: one is not KEY=VALUE.
    """
    return dict(split_pair("--set", t, "--set build.optimization_level=3") for t in texts)


def parse_constants(texts: Sequence[str]) -> dict[str, Any]:
    """Values of ``--constant NAME=VALUE``, read as YAML (numbers, lists, true, text).

    The last ``=`` ends the name, as in :func:`parse_shapes`.

    Raises:
        ConfigError: one is not NAME=VALUE, or its value is not YAML.
    """
    from surgery.yaml_source import parse_scalar

    result = {}
    for text in texts:
        name, value = split_pair("--constant", text, "--constant iou_threshold=0.6", last=True)
        try:
            result[name] = parse_scalar(value)
        except ConfigError as error:
            raise ConfigError(
                error.message, code="bad-option", where=f"--constant {name}", fix="write a number or [1, 2]"
            ) from error
    return result


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Ranges of ``--shape NAME=MIN:OPT:MAX``; one shape stands for all three.

    The last ``=`` ends the name, so that names may hold ``:`` and ``=`` (``image_tensor:0``).

    Raises:
        ConfigError: one is malformed, or has a minimum above its optimum or an optimum above its maximum.
    """
    result = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        found = read_range(value)
        if not equals or not name or found is None:
            raise ConfigError(
                f"expected NAME=MIN:OPT:MAX, got {text!r}",
                code="bad-shape",
                where="--shape",
                fix=_SHAPE_EXAMPLE,
            )
        _check_range(name, found)
        result[name] = found
    return result


def _check_range(name: str, shapes: tuple[Shape, Shape, Shape]) -> None:
    from surgery.config import profile_problem

    found = profile_problem(shapes)
    if found is not None:
        raise ConfigError(found[2], code="bad-shape", where=f"--shape {name}", fix=_SHAPE_EXAMPLE)


def load_inputs(path: Path) -> dict[str, NDArray[np.generic]]:
    """Arrays by input name from an ``.npz`` file; pickled objects are refused.

    Raises:
        ConfigError: there is no such file, or it is not an npz of plain arrays.
    """
    import zipfile

    import numpy as np

    hint = "write one with numpy.savez(FILE, name=array)"
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ConfigError("one array, not an .npz file", code="bad-inputs", where=str(path), fix=hint)
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot be read: {reason}", code="bad-inputs", where=str(path)) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        # NumPy takes whatever it does not know for pickled objects, and advises to load them.
        archive = isinstance(error, zipfile.BadZipFile) or zipfile.is_zipfile(path)
        raise ConfigError(
            "not an .npz file of plain arrays",
            code="bad-inputs",
            where=str(path),
            cause=str(error) if archive else "it is not a zip archive, which .npz files are",
            fix=hint,
        ) from error
