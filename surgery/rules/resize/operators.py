"""Resize and Upsample."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.resize.axes import (
    Axis,
    Mixed,
    Style,
    axes_by_scales,
    axes_by_sizes,
    optional_operand,
    size_along,
    size_times,
    with_region,
)
from surgery.rules.resize.interpolation import resize


def _style(site: Site) -> Style:
    return Style(
        mode=site.attr("mode", "nearest"),
        transform=site.attr("coordinate_transformation_mode", "half_pixel"),
        nearest=site.attr("nearest_mode", "round_prefer_floor"),
        cubic=float(site.attr("cubic_coeff_a", -0.75)),
        exclude_outside=bool(site.attr("exclude_outside", 0)),
        antialias=bool(site.attr("antialias", 0)),
        extrapolation=float(site.attr("extrapolation_value", 0.0)),
        stretched=site.attr("keep_aspect_ratio_policy", "stretch") == "stretch",
        fixed_point=site.kind(0) in "iu" and site.dtype(0).itemsize == 1 and bool(site.attr("antialias", 0)),
    )


@lowering(
    "resize-by-weights",
    "Resize",
    why="TensorRT takes sizes and scales only if they are constant or come from shapes, and neither antialias,"
    " tf_crop_and_resize, half_pixel_symmetric, keep_aspect_ratio_policy nor exclude_outside. Resizing is"
    " separable: a matrix per axis, as in onnx's reference (op_resize.py); coordinates as in ONNX Runtime.",
    since=11,
    samples=[
        """(float[n, 2, 4, 5] x) => (float[n, 2, 8, 10] y) <float[4] s = {1, 1, 2, 2}>
        { y = Resize <mode = "cubic", exclude_outside = 1> (x, , s) }""",
        """(float[1, 1, 8, 6] x) => (float[1, 1, 4, 3] y) <float[4] s = {1, 1, 0.6, 0.5}>
        { y = Resize <mode = "linear", antialias = 1> (x, , s) }""",
        """(float[1, 2, 9, 6] x) => (float[1, 2, 4, 3] y) <int64[2] s = {4, 3}>
        { y = Resize <mode = "cubic", antialias = 1, axes = [2, 3], cubic_coeff_a = -0.5> (x, , , s) }""",
        """(float[2, 1, h, w] x) => (float[2, 1, p, q] y) <float[4] s = {1, 1, 1.5, 0.7}>
        { y = Resize <mode = "cubic", antialias = 1> (x, , s) }""",
        """(float[n, 2, h, w] x) => (float[n, 2, p, q] y) <float[4] s = {1, 1, 2.5, 0.7}>
        { y = Resize <mode = "nearest", nearest_mode = "round_prefer_ceil"> (x, , s) }""",
        Sample(
            """(float16[1, 2, 4, 6] x, float[4] s) => (float16[1, 2, 6, 7] y)
            { y = Resize <mode = "linear"> (x, , s) }""",
            feeds={"s": [1, 1, 1.5, 1.3]},
        ),
        Sample(
            "(int32[2, 4, 6] x, float[3] s) => (int32[2, 6, 4] y) { y = Resize (x, , s) }",
            feeds={"s": [1, 1.6, 0.7]},
        ),
        Sample(
            """(float[1, 1, 4, 6] x, int64[2] s) => (float[1, 1, 8, 12] y)
            { y = Resize <axes = [2, 3], keep_aspect_ratio_policy = "not_larger"> (x, , , s) }""",
            feeds={"s": [8, 20]},
        ),
        """(float[1, 1, 4, 6] x) => (float[1, 1, 9, 14] y) <int64[2] s = {9, 7}>
        { y = Resize <mode = "linear", axes = [2, 3], keep_aspect_ratio_policy = "not_smaller"> (x, , , s) }""",
        Sample(
            """(float[1, 2, 6, 5] x, float[8] roi) => (float[1, 2, 3, 4] y) <int64[4] s = {1, 2, 3, 4}>
            { y = Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize",
                          extrapolation_value = 7.5> (x, roi, , s) }""",
            feeds={"roi": [0, 0, -0.1, 0.3, 1, 1, 0.6, 1.2]},
        ),
        Sample(
            """(float[1, 1, 5, 6] x) => (float[1, 1, 2, 9] y) <float[4] s = {1, 1, 0.5, 1.6}>
            { y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel_symmetric"> (x, , s) }""",
            opset=19,
        ),
        """(float[1, 1, 5, 6] x) => (float[1, 1, 10, 3] y) <float[4] s = {1, 1, 2, 0.5}>
        { y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , s) }""",
        """(float[1, 1, 5, 6] x) => (float[1, 1, 1, 9] y) <float[4] s = {1, 1, 0.2, 1.6}>
        { y = Resize <mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"> (x, , s) }""",
        """(uint8[1, 3, 5, 6] x) => (uint8[1, 3, 7, 9] y) <int64[4] s = {1, 3, 7, 9}>
        { y = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (x, , , s) }""",
        """(double[1, 1, 3, 4, 5] x) => (double[1, 1, 6, 8, 10] y) <float[5] s = {1, 1, 2, 2, 2}>
        { y = Resize <mode = "linear"> (x, , s) }""",
        Sample(
            """(float[1, 1, 4, 4] x) => (float[1, 1, 8, 2] y)
            <float[8] r = {0, 0, 0, 0, 1, 1, 1, 1}, float[4] s = {1, 1, 2, 0.5}>
            { y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor">
                         (x, r, s) }""",
            opset=11,
        ),
        *samples_in(
            "uint16 int8 int16 int64 bfloat16",
            "(T[n, 2, 4, 5] x) => (T[n, 2, 8, 10] y) <float[4] s = {1, 1, 2, 2}> { y = Resize <mode "
            '= "cubic", exclude_outside = 1> (x, , s) }',
        ),
        *samples_in(
            "uint32 uint64",
            "(T[n, 2, h, w] x) => (T[n, 2, p, q] y) <float[4] s = {1, 1, 2.5, 0.7}> { y = Resize "
            '<mode = "nearest", nearest_mode = "round_prefer_ceil"> (x, , s) }',
        ),
        *samples_in(
            "double",
            "(float[1, 2, 6, 5] x, T[8] roi) => (float[1, 2, 3, 4] y) <int64[4] s = {1, 2, 3, 4}> { "
            'y = Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", '
            "extrapolation_value = 7.5> (x, roi, , s) }",
            feeds={"roi": [0, 0, -0.1, 0.3, 1, 1, 0.6, 1.2]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[1, 1, 4, 4] x, float[4] s) => (float[1, 1, h, w] y) { y = Resize (x, , s) }",
            feeds={"s": [1, 1, 2, 2]},
        ),
    ],
)
def resize_rule(site: Site, b: Body) -> str:
    """Resize along every axis with a matrix, or by gathering for nearest."""
    return _resized(site, b)


def _resized(site: Site, b: Body) -> str:
    m, x = Mixed(b), site.input(0)
    given = site.attr("axes")
    axes = [a % x.rank for a in given] if given is not None else list(range(x.rank))
    scales, sizes = optional_operand(site, 2), optional_operand(site, 3)
    if scales is not None:
        found = axes_by_scales(site, m, scales, axes)
    elif sizes is not None:
        found = axes_by_sizes(site, m, sizes, axes)
    else:
        raise NoMatch("neither scales nor sizes are given")
    style = _style(site)
    if style.transform == "tf_crop_and_resize":
        found = with_region(site, m, found, axes)
    return resize(site, b, found, style)


REFUSED = frozenset({"tf_crop_and_resize", "half_pixel_symmetric"})
"""Coordinates that no parser takes."""


@lowering(
    "resize-to-computed-size",
    "Resize",
    since=11,
    when="always",
    why="A node whose size comes from shapes cannot be tried alone; some attributes are refused by every"
    " parser: antialias, keep_aspect_ratio_policy, tf_crop_and_resize, half_pixel_symmetric.",
    samples=[
        """(float[2, 3, h, w] x) => (float[2, 3, p, q] y) <int64[2] up = {2, 1}, int64[2] down = {1, 2}>
        {
            size = Shape <start = 2> (x)
            grown = Mul (size, up)
            s = Div (grown, down)
            y = Resize <mode = "cubic", antialias = 1, axes = [2, 3]> (x, , , s)
        }""",
        """(float[2, 3, h, w] x) => (float[2, 3, p, q] y) <int64[2] more = {3, 1}>
        {
            size = Shape <start = 2> (x)
            s = Add (size, more)
            y = Resize <mode = "linear", keep_aspect_ratio_policy = "not_smaller", axes = [2, 3]> (x, , , s)
        }""",
        *samples_in(
            "int32 bfloat16 float16",
            "(T[2, 3, h, w] x) => (T[2, 3, p, q] y) <int64[2] up = {2, 1}, int64[2] down = {1, 2}> { "
            "size = Shape <start = 2> (x) grown = Mul (size, up) s = Div (grown, down) y = Resize "
            '<mode = "cubic", antialias = 1, axes = [2, 3]> (x, , , s) }',
        ),
        *samples_in(
            "uint8 int8",
            "(T[2, 3, h, w] x) => (T[2, 3, p, q] y) <int64[2] more = {3, 1}> { size = Shape <start = "
            '2> (x) s = Add (size, more) y = Resize <mode = "linear", keep_aspect_ratio_policy = '
            '"not_smaller", axes = [2, 3]> (x, , , s) }',
        ),
    ],
    near_misses=[
        """(float[1, 1, 4, 6] x) => (float[1, 1, 8, 6] y) <int64[4] s = {1, 1, 8, 6}>
        { y = Resize <mode = "linear"> (x, , , s) }""",
    ],
)
def resize_to_computed_size(site: Site, b: Body) -> str:
    """As the other rule, for sizes or scales that are computed from shapes."""
    place = next((i for i in (2, 3) if optional_operand(site, i) is not None), None)
    if place is None or not site.input(place).shape_only:
        raise NoMatch("the size does not come from shapes")
    style = _style(site)
    if not style.antialias and style.stretched and style.transform not in REFUSED:
        raise NoMatch("the attributes are taken")
    return _resized(site, b)


@lowering(
    "upsample-by-weights",
    "Upsample",
    "Resize",
    why="TensorRT takes the scales only as constants. Before opset 11, both have asymmetric coordinates.",
    samples=[
        Sample(
            "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 6] y) <float[4] s = {1, 1, 2, 3}> { y = Upsample (x, s) }",
            opset=9,
        ),
        Sample(
            """(float[1, 1, 2, 2] x, float[4] s) => (float[1, 1, 4, 6] y)
            { y = Upsample <mode = "linear"> (x, s) }""",
            opset=9,
            feeds={"s": [1, 1, 2, 3]},
        ),
        Sample(
            "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 6] y) { y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (x) }",
            opset=8,
        ),
        Sample(
            "(float[1, 1, 7, 4] x) => (float[1, 1, 4, 6] y) <float[4] s = {1, 1, 0.6, 1.5}> { y = Resize (x, s) }",
            opset=10,
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 double bool",
            "(T[1, 1, 2, 2] x) => (T[1, 1, 4, 6] y) <float[4] s = {1, 1, 2, 3}> { y = Upsample (x, s) }",
            opset=9,
        ),
    ],
    near_misses=["(float[2, 2] x) => (float[4, 4] y) <float[2] s = {2, 2}> { y = Resize (x, , s) }"],
    since=7,
    until=10,
)
def upsample_rule(site: Site, b: Body) -> str:
    """Upsample and the first Resize, by scales that are an input or (opset 7) an attribute."""
    m, x = Mixed(b), site.input(0)
    if site.has(1):
        found = axes_by_scales(site, m, site.input(1), list(range(x.rank)))
    else:
        values = [np.float32(s) for s in site.attr("scales", [])]
        befores = [size_along(x, a, b) for a in range(x.rank)]
        found = [
            Axis(a, n, size_times(n, s, b), np.asarray(s))
            for a, (n, s) in enumerate(zip(befores, values, strict=True))
        ]
    style = Style(mode=site.attr("mode", "nearest"), transform="asymmetric", nearest="away_from_start")
    return resize(site, b, found, style)
