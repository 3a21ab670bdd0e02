"""Option values: names may hold `:` and `=`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery.cli.values import load_inputs, parse_constants, parse_sets, parse_shapes
from surgery.errors import ConfigError


def test_shapes() -> None:
    assert parse_shapes(["image_tensor:0=1x300x300x3:2x300x300x3:4x600x600x3", "a=b=7"]) == {
        "image_tensor:0": ((1, 300, 300, 3), (2, 300, 300, 3), (4, 600, 600, 3)),
        "a=b": ((7,), (7,), (7,)),
    }


@pytest.mark.parametrize(
    "text", ["x", "=1x3", "x=", "x=1:2", "x=1:2:3:4", "x=1x", "x=-1", "x=1.5", "x=1 3", "x=3:2:4", "x=0"]
)
def test_shapes_that_are_wrong(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_shapes([text])
    assert caught.value.exit_code == 2
    assert "--shape" in (caught.value.where or "")


def test_constants_are_yaml() -> None:
    assert parse_constants(["a=1", "b:0=[1, 2.5]", "c=true", "d=x=1e-4"]) == {
        "a": 1,
        "b:0": [1, 2.5],
        "c": True,
        "d=x": 1e-4,
    }


def test_overrides_split_at_the_first_equals_sign() -> None:
    assert parse_sets(["build.tf32=true", "substitute.detections={plugin: a=b}"]) == {
        "build.tf32": "true",
        "substitute.detections": "{plugin: a=b}",
    }


def test_inputs(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "image_tensor:0": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
        "x": np.ones(2, np.float32),
    }
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]  # as numpy declares it
    loaded = load_inputs(tmp_path / "a.npz")
    assert list(loaded) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].dtype == value.dtype


def test_inputs_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([object()]))
    with pytest.raises(ConfigError, match="plain arrays"):
        load_inputs(tmp_path / "a.npz")


def test_text_is_not_called_pickled_data(tmp_path: Path) -> None:
    # numpy.load says that such a file could be loaded unsafely, which nobody should try.
    (tmp_path / "a.npz").write_text("This is no archive.\n")
    with pytest.raises(ConfigError, match="plain arrays") as caught:
        load_inputs(tmp_path / "a.npz")
    assert caught.value.cause is not None
    assert "zip archive" in caught.value.cause
    assert "pickle" not in caught.value.cause


def test_one_array_is_not_enough(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(ConfigError, match="npz"):
        load_inputs(tmp_path / "a.npy")
