from __future__ import annotations

from collections.abc import Mapping

import onnx
import pytest
from onnx import TensorProto, helper

from surgery.verify.size_hints import baked_sizes, batch_multiples, cache_sums, new_tokens, signal_lengths
from surgery.verify.sizes import Hints, NoFitError, Relation, best_first, fit, free_dims


def value(name: str, *dims: int | str | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def roles(*values: onnx.ValueInfoProto) -> dict[str, str]:
    return {d.key: d.role for d in free_dims(values)}


def test_what_dims_count() -> None:
    assert roles(value("image", "n", 3, "h", "w")) == {"n": "batch", "h": "image", "w": "image"}
    assert roles(value("frame", None, None, None, 3)) == {
        "frame[0]": "batch", "frame[1]": "image", "frame[2]": "image"
    }  # fmt: skip
    assert roles(value("ids", "n", "s", kind=TensorProto.INT64)) == {"n": "batch", "s": "length"}
    assert roles(value("sequence", "n", "s", 3)) == {"n": "batch", "s": "length"}
    assert roles(value("points", "n", "s", 16)) == {"n": "batch", "s": "length"}


def test_pictures_of_bytes_stay_pictures_when_they_are_read_as_whole_numbers() -> None:
    for dims in (["n", "h", "w", 3], ["h", "w", 3]):
        read, given = (
            value("image", *dims, kind=TensorProto.INT32),
            value("image", *dims, kind=TensorProto.UINT8),
        )
        found = {d.key: d.role for d in free_dims([read], [given])}
        assert {k: r for k, r in found.items() if k != "n"} == {"h": "image", "w": "image"}


def test_caches_are_no_pictures() -> None:
    caches = [value(f"past.{i}", "n", 4, "past", 8) for i in range(4)]
    assert roles(*caches) == {"n": "batch", "past": "length"}


def test_points_of_a_cloud_are_thousands_and_no_samples() -> None:
    cloud = [value("pillars", "Pillars", 6, 4), value("npoints", "Pillars"), value("coors", "Pillars", 3)]
    assert roles(*cloud) == {"Pillars": "length"}
    found = fit(free_dims(cloud), lambda sizes: None, {})
    assert found.ranges == {"Pillars": (1, 2048, 16384)}
    few = fit(free_dims(cloud), lambda sizes: "too many" if sizes["Pillars"] > 100 else None, {})
    assert few.ranges["Pillars"][1] == 16
    # Samples of points, and a dim that has no name of its own.
    assert roles(value("x", "n", "num_points", 3)) == {"n": "batch", "num_points": "length"}
    assert roles(value("points", None, 1024, 3)) == {"points[0]": "batch"}


def decoder() -> list[onnx.ValueInfoProto]:
    caches = [value(f"past.{i}", "n", 4, "past", 8) for i in range(4)]
    return [
        value("ids", "n", 1, kind=TensorProto.INT64),
        value("mask", "n", "total", kind=TensorProto.INT64),
        *caches,
    ]


def test_a_mask_as_long_as_the_cache_and_the_new_token() -> None:
    inputs = decoder()

    def judge(sizes: Mapping[str, int]) -> str | None:
        return None if sizes["total"] == sizes["past"] + 1 else "mask and scores do not fit"

    found = fit(free_dims(inputs), judge, {}, Hints(new_tokens(inputs)))
    assert found.relations == {"total": Relation(("past",), 1)}
    assert [found.ranges["total"][i] - found.ranges["past"][i] for i in range(3)] == [1, 1, 1]
    assert found.ranges["past"][0] < found.ranges["past"][1] < found.ranges["past"][2]
    assert str(found.relations["total"]) == "past + 1"


def test_a_mask_as_long_as_the_cache_and_new_tokens_of_any_number() -> None:
    """Beside further lengths, each set of sizes costs a run: what caches say is tried first."""
    ids, mask, *caches = decoder()
    ids = value("ids", "n", "new", kind=TensorProto.INT64)
    states = [value("states", "n", "frames", 16), value("lengths", "n", "words", kind=TensorProto.FLOAT)]
    inputs = [states[0], ids, mask, states[1], *caches]
    sums = cache_sums(inputs)
    assert sums[0] == ("total", "new", "past")
    assert all(old == "past" and both != "past" for both, _, old in sums)

    def judge(sizes: Mapping[str, int]) -> str | None:
        return None if sizes["total"] == sizes["past"] + sizes["new"] else "mask and scores do not fit"

    found = fit(free_dims(inputs), judge, {}, Hints(sums=sums))
    assert found.relations == {"total": Relation(("new", "past"))}
    assert found.tries < 10
    assert cache_sums([ids, mask]) == []


def test_sound_is_longer_than_tokens() -> None:
    sound, tokens = value("sound", "n", "samples"), value("ids", "n", "words", kind=TensorProto.INT64)
    assert signal_lengths([sound, tokens]) == {"samples"}
    assert signal_lengths([value("sound", "n", 1, "samples"), tokens]) == {"samples"}
    assert signal_lengths([sound]) == set()
    assert signal_lengths([value("weights", "n", "words"), tokens]) == set()
    assert signal_lengths([value("mask", "n", "words", kind=TensorProto.BOOL), sound, tokens]) == {"samples"}
    hints = Hints(signals=signal_lengths([sound, tokens]))

    def judge(sizes: Mapping[str, int]) -> str | None:
        return None if sizes["samples"] >= 400 and sizes["words"] <= 40 else "too short or too long"

    found = fit(free_dims([sound, tokens]), judge, {}, hints)
    assert found.relations == {}
    assert found.ranges["words"][2] <= 40
    assert found.ranges["samples"][0] >= 400
    assert found.ranges["samples"][0] < found.ranges["samples"][2]


def test_a_row_for_each_beam_of_a_batch() -> None:
    inputs = [
        value("h", "rows", 16),
        value("score", "n", 4),
        value("tokens", "n", 4, "s", kind=TensorProto.INT64),
        value("cache", "rows", "past", 7),
    ]
    multiples = batch_multiples(inputs)
    assert multiples == [("rows", "n", 4), ("n", "rows", 16)]

    def judge(sizes: Mapping[str, int]) -> str | None:
        return None if sizes["rows"] == 4 * sizes["n"] else "rows do not fit"

    found = fit(free_dims(inputs), judge, {}, Hints(multiples=multiples))
    assert found.relations == {"rows": Relation(("n",), times=4)}
    assert str(found.relations["rows"]) == "4 * n"
    assert found.ranges["n"][2] > found.ranges["n"][0] == 1
    assert all(rows == 4 * n for rows, n in zip(found.ranges["rows"], found.ranges["n"], strict=True))
    assert found.tries < 10
    # What is given stays given.
    given = fit(free_dims(inputs), judge, {"n": (1, 2, 4)}, Hints(multiples=multiples, baked=[8, 4]))
    assert given.ranges["n"] == (1, 2, 4)


def test_masks_that_look_like_pictures() -> None:
    assert roles(value("mask", "n", 1, 1, "total")) == {"n": "batch", "total": "length"}
    dims = free_dims([value("mask", "n", 1, "q", "k"), value("x", "n", "s", 16)])
    found = fit(dims, lambda sizes: None if sizes["q"] == sizes["k"] == sizes["s"] < 50 else "differ", {})
    assert found.ranges["q"] == found.ranges["s"] == (1, 16, 32)


def test_independent_lengths_are_told_apart() -> None:
    dims = free_dims([value("a", "n", "s", 16), value("b", "n", "t", 16)])
    found = fit(dims, lambda sizes: None, {})
    assert found.ranges["s"][1] != found.ranges["t"][1]
    assert found.relations == {}
    assert found.tries == 3  # nothing is tried in vain


def test_lengths_that_have_to_be_the_same() -> None:
    dims = free_dims([value("a", "n", "s", 16), value("b", "n", "t", 16)])
    found = fit(dims, lambda sizes: None if sizes["s"] == sizes["t"] else "differ", {})
    assert found.ranges["s"] == found.ranges["t"]


def test_an_image_of_another_size() -> None:
    dims = free_dims([value("image", "n", 3, "h", "w")])
    found = fit(dims, lambda sizes: None if sizes["h"] == sizes["w"] == 64 else "only 64", {})
    assert found.ranges["h"] == (64, 64, 64)
    assert found.ranges["n"] == (1, 1, 4)
    assert found.stuck["h"] == "only 64"


def test_a_table_of_positions_ends_somewhere() -> None:
    dims = free_dims([value("ids", "n", "s", kind=TensorProto.INT64)])
    found = fit(dims, lambda sizes: None if sizes["s"] <= 40 else "no such position", {})
    assert found.ranges["s"] == (1, 16, 32)


def test_sizes_that_the_export_baked_in() -> None:
    dims = free_dims([value("a", "n", "s", 16), value("b", "n", "t", 16)])
    wanted = {"s": 5, "t": 7}

    def judge(sizes: Mapping[str, int]) -> str | None:
        return None if {k: sizes[k] for k in wanted} == wanted else "baked"

    with pytest.raises(NoFitError, match="baked"):
        fit(dims, judge, {})
    found = fit(dims, judge, {}, Hints(baked=[4, 5, 7]))
    assert found.ranges["s"] == (5, 5, 5)
    assert found.ranges["t"] == (7, 7, 7)


def test_given_ranges_stay_and_have_to_be_possible() -> None:
    dims = free_dims([value("ids", "n", "s", kind=TensorProto.INT64)])
    found = fit(dims, lambda sizes: None, {"s": (3, 5, 9)})
    assert found.ranges["s"] == (3, 5, 9)
    with pytest.raises(NoFitError) as caught:
        fit(dims, lambda sizes: "too long" if sizes["s"] > 8 else None, {"s": (3, 5, 9)})
    assert caught.value.end == 2


def test_numbers_in_target_shapes() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 6] x) => (float[a, b, c] y) <int64[1] five = {5}, int64[1] rest = {-1}>
        { s = Constant <value = int64[2] {5, 12}> () r = Reshape (x, s)
          t = Concat <axis = 0> (rest, five, five) y = Reshape (r, t) }
    """)
    assert baked_sizes(model) == [5, 12]


def test_the_first_choices_come_first() -> None:
    assert list(best_first([2, 3])) == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (1, 2)]
    assert list(best_first([])) == [()]


def test_pictures_of_whole_patches_of_the_last_map() -> None:
    inputs = [value("image", "n", 3, "h", "w")]

    def judge(sizes: Mapping[str, int]) -> str | None:
        return None if sizes["h"] % 64 == 0 and sizes["h"] < 600 else "patches do not fit"

    assert fit(free_dims(inputs), judge, {}).ranges["h"] == (128, 320, 448)


def test_smaller_pictures_where_there_is_room_for_one_large_one() -> None:
    inputs = [value("image", "n", 3, "h", "w")]

    def judge(sizes: Mapping[str, int]) -> str | None:
        return None if sizes["n"] * sizes["h"] ** 2 <= 1.5 * 320**2 else "no room"

    ranges = fit(free_dims(inputs), judge, {}).ranges
    assert ranges["n"] == (1, 1, 4)
    assert ranges["h"][1] == 128


def test_one_sample_alone_leaves_the_usual_size() -> None:
    inputs = [value("image", "n", 3, "h", "w")]
    ranges = fit(free_dims(inputs), lambda sizes: None if sizes["n"] == 1 else "made for one", {}).ranges
    assert ranges["n"] == (1, 1, 1)
    assert ranges["h"][1] == 320
