from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from surgery.errors import ConfigError
from surgery.verify.inputs import check_given, derive_input, image_like, layout_of


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 300, 300, 3), "channels last"),
        ((2, 3, 224, 224), "channels first"),
        ((1, 1, 28, 28), "channels first"),
        ((480, 640, 3), "channels last"),
        ((3, 480, 640), "channels first"),
        ((1, 16, 64), None),
        ((1, 64, 8, 8), None),
        ((1, 0, 300, 3), None),
        ((4, 3), None),
    ],
)
def test_layout_of(shape: tuple[int, ...], layout: str | None) -> None:
    assert layout_of(shape) == layout


@pytest.mark.parametrize("shape", [(1, 120, 160, 3), (2, 3, 120, 160), (120, 160, 3), (3, 120, 160)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16])
def test_pictures_have_the_statistics_of_pictures(shape: tuple[int, ...], dtype: Any) -> None:
    picture = image_like(shape, dtype, rng())
    assert picture.shape == shape
    assert picture.dtype == dtype
    top = 255 if dtype is np.uint8 else 1
    assert 0 <= picture.min() < 0.2 * top
    assert 0.8 * top < picture.max() <= top
    # Neighbours are alike, which they are not in noise, and there are edges.
    rows = -3 if shape[-1] == 3 else -2
    steps = np.abs(np.diff(picture.astype(np.float64), axis=rows)) / top
    assert steps.mean() < 0.5 * picture.astype(np.float64).std() / top
    assert steps.max() > 0.2


def test_every_picture_of_a_batch_is_another() -> None:
    first, second = image_like((2, 32, 32, 3), np.float32, rng())
    assert not np.array_equal(first, second)


def test_pictures_are_the_same_in_both_layouts() -> None:
    last = image_like((1, 20, 30, 3), np.float32, rng())
    first = image_like((1, 3, 20, 30), np.float32, rng())
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), first)


def test_the_range_and_layout_can_be_chosen() -> None:
    picture = image_like((1, 3, 40, 3), np.float32, rng(), "channels first", (-1.0, 1.0))
    assert picture.shape == (1, 3, 40, 3)
    assert picture.min() < -0.2
    assert picture.max() <= 1
    small = image_like((1, 40, 40, 3), np.int8, rng())
    assert 0 <= small.min() < small.max() <= 127


def test_the_seed_decides() -> None:
    one, two, other = (image_like((1, 16, 16, 3), np.uint8, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "values"),
    [
        ("flags", np.bool_, (40,), {False, True}),
        ("attention_mask", np.int64, (2, 40), {0, 1}),
        ("ids", np.int32, (2, 400), set(range(16))),
    ],
)
def test_other_inputs_have_plausible_values(
    name: str, dtype: Any, shape: tuple[int, ...], values: set[Any]
) -> None:
    value = derive_input(name, dtype, shape, rng())
    assert value.dtype == dtype
    assert value.shape == shape
    assert set(value.reshape(-1).tolist()) == values


def test_other_floats_are_normal_numbers() -> None:
    value = derive_input("hidden", np.float32, (1, 200, 64), rng())
    assert value.dtype == np.float32
    assert abs(value.mean()) < 0.05
    assert value.std() == pytest.approx(1, abs=0.05)


def test_scalars_and_empty_inputs() -> None:
    assert derive_input("x", np.float32, (), rng()).shape == ()
    assert derive_input("x", np.float32, (0, 3), rng()).shape == (0, 3)
    assert derive_input("words", object, (3,), rng()).dtype == object


WANTED: dict[str, tuple[Any, list[int | str | None] | None]] = {
    "image": (np.uint8, ["N", 4, None, 3]),
    "scale": (np.float32, None),
}
GOOD = {"image": np.zeros((2, 4, 5, 3), np.uint8), "scale": np.float32(1)}


def test_given_values_that_fit() -> None:
    values = check_given(GOOD, WANTED)
    assert list(values) == ["image", "scale"]
    assert values["image"].shape == (2, 4, 5, 3)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"imgae": GOOD["image"]}, "unknown-input", "imgae"),
        ({"image": None}, "missing-input", "image"),
        ({"image": np.zeros((2, 4, 5, 3), np.float32)}, "input-dtype", "float32"),
        ({"image": np.zeros((2, 3, 5, 3), np.uint8)}, "input-shape", "[2, 3, 5, 3]"),
        ({"image": np.zeros((4, 5, 3), np.uint8)}, "input-shape", "[4, 5, 3]"),
    ],
)
def test_given_values_that_do_not_fit(change: dict[str, Any], code: str, says: str) -> None:
    given = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    with pytest.raises(ConfigError) as caught:
        check_given(given, WANTED)
    assert caught.value.code == code
    assert says in caught.value.message
