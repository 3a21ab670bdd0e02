"""Anchors give back the attributes of the generator that made them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.heads.gridanchor import GridAnchors, Layer, find_layers, generate, recover

SHAPES = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=5).map(
    lambda pairs: sorted(set(pairs), reverse=True)
)


def layers_of(shapes: list[tuple[int, int]], ratios: int) -> tuple[Layer, ...]:
    """Grids with the right number of priors; their sizes are what `generate` works out."""
    return tuple(
        Layer(h, w, ((0.1, 0.1),) * (3 if k == 0 else ratios + 1)) for k, (h, w) in enumerate(shapes)
    )


@given(
    SHAPES.filter(lambda s: len(s) >= 2),
    st.floats(0.05, 0.4),
    st.floats(0.5, 0.99),
    st.lists(st.floats(0.4, 3.0), min_size=3, max_size=6, unique=True),
)
@settings(max_examples=80, deadline=None)
def test_round_trip(shapes: list[tuple[int, int]], low: float, high: float, ratios: list[float]) -> None:
    if sum(s == (1, 1) for s in shapes) > 1:
        return
    made = generate(layers_of(shapes, len(ratios)), low, high, tuple(ratios)).astype(np.float32)
    found = recover(made)
    assert isinstance(found, GridAnchors), found
    assert [(n.rows, n.columns) for n in found.layers] == shapes
    assert found.min_size == pytest.approx(low, rel=1e-4)
    assert found.max_size == pytest.approx(high, rel=1e-4)
    assert found.aspect_ratios == pytest.approx(ratios, rel=1e-3)
    assert found.square == all(h == w for h, w in shapes)
    assert found.max_error < 1e-5
    attributes = found.attributes((0.1, 0.1, 0.2, 0.2))
    assert attributes["numLayers"] == len(shapes)
    assert len(attributes["featureMapShapes"]) == len(shapes) * (1 if found.square else 2)


def test_the_numbers_of_the_classic_recipe_come_back_exactly() -> None:
    shapes = [(n, n) for n in (19, 10, 5, 3, 2, 1)]
    ratios = (1.0, 2.0, 0.5, 3.0, 0.3333)
    found = recover(generate(layers_of(shapes, 5), 0.2, 0.95, ratios).astype(np.float32))
    assert isinstance(found, GridAnchors)
    assert (found.min_size, found.max_size, found.aspect_ratios) == (0.2, 0.95, ratios)
    assert found.attributes((0.1, 0.1, 0.2, 0.2))["featureMapShapes"] == [19, 10, 5, 3, 2, 1]


def test_moved_anchors_are_no_grid() -> None:
    made = generate(layers_of([(4, 4), (2, 2)], 3), 0.2, 0.9, (1.0, 2.0, 0.5))
    assert isinstance(find_layers(made), list)
    assert isinstance(recover(made + np.asarray([0.01, 0, 0.01, 0])), str)


def test_a_scale_that_is_not_linear_is_refused() -> None:
    layers = layers_of([(4, 4), (3, 3), (2, 2)], 3)
    made = generate(layers, 0.2, 0.9, (1.0, 2.0, 0.5))
    middle = slice(4 * 4 * 3, 4 * 4 * 3 + 3 * 3 * 4)
    centre = (made[middle, :2] + made[middle, 2:]) / 2
    made[middle] = np.concatenate(
        [centre + 1.2 * (made[middle, :2] - centre), centre + 1.2 * (made[middle, 2:] - centre)], 1
    )
    assert "differ by" in str(recover(made))
