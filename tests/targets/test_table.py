from __future__ import annotations

import pytest

from surgery.errors import ConfigError
from surgery.targets import known_targets, resolve_target
from surgery.trt.session import installed_flavours


def test_the_default_is_what_is_installed() -> None:
    target = resolve_target(None)
    installed = installed_flavours()
    assert target.flavour == ("tensorrt" if "tensorrt" in installed else "tensorrt-rtx")
    assert target.installed == (target.flavour in installed)
    if target.installed:
        assert target.installed_version == installed[target.flavour]
        assert target.name == f"{target.flavour}-{'.'.join(installed[target.flavour].split('.')[:2])}"


@pytest.mark.parametrize(
    ("name", "table", "exact"),
    [
        ("tensorrt-10.16", "tensorrt-10.16", True),
        ("tensorrt-11.4", "tensorrt-11.1", False),
        ("tensorrt-10.5", "tensorrt-10.1", False),
        ("tensorrt-rtx-1.7", "tensorrt-rtx-1.7", True),
        ("tensorrt-rtx-1.6", "tensorrt-rtx-1.7", False),
        ("tensorrt-10.16.1", "tensorrt-10.16", True),
    ],
)
def test_a_version_uses_its_table_or_the_newest_older_one(name: str, table: str, exact: bool) -> None:
    target = resolve_target(name)
    assert (target.table, target.table_exact) == (table, exact)


@pytest.mark.parametrize("name", ["tensorrt-10", "tensorrt-11", "tensorrt-rtx"])
def test_a_part_of_a_name_takes_a_known_version(name: str) -> None:
    assert resolve_target(name).name in known_targets()
    assert resolve_target(name).name.startswith(name)


@pytest.mark.parametrize("name", ["tensorrt-tx-1.7", "trt", "tensorrt-ten", "tensorrt-99", ""])
def test_an_unknown_target_names_near_ones(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_target(name)
    assert caught.value.exit_code == 2
    assert "tensorrt" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("plugin", "has", "has_not"),
    [
        ("BatchedNMSDynamic_TRT", ("tensorrt-8.6", "tensorrt-10.16"), ("tensorrt-11.1", "tensorrt-11.4")),
        ("NMS_TRT", ("tensorrt-10.16",), ("tensorrt-11.4",)),
        ("EfficientNMS_Explicit_TF_TRT", ("tensorrt-10.16", "tensorrt-11.4"), ("tensorrt-rtx-1.7",)),
        ("GridAnchor_TRT", ("tensorrt-10.16", "tensorrt-11.4"), ("tensorrt-rtx-1.6",)),
    ],
)
def test_which_versions_ship_a_plugin(plugin: str, has: tuple[str, ...], has_not: tuple[str, ...]) -> None:
    for name in (*has, *has_not):
        entry = resolve_target(name).plugin(plugin)
        assert entry is not None
        assert entry.available == (name in has), name
        assert entry.attributes


def test_what_rtx_takes_in_parsing_and_refuses_in_building() -> None:
    target = resolve_target("tensorrt-rtx-1.7")
    refused = {n: target.operator(n) for n in ("NonMaxSuppression", "NonZero", "RoiAlign")}
    assert {n: e.refused_at for n, e in refused.items() if e} == {
        "NonMaxSuppression": "build", "NonZero": "parse", "RoiAlign": "parse",
    }  # fmt: skip
    conv = target.operator("Conv")
    assert conv is not None
    assert conv.supported
    assert target.operator("NoSuchOperator") is None
    assert target.plugins() == []


def test_counts_add_up_and_names_are_in_order() -> None:
    for name in known_targets():
        target = resolve_target(name)
        summary = target.summary()
        assert summary["operators"] + summary["refused"] == len(target.operators())
        assert summary["restricted"] <= summary["operators"]
        assert summary["plugins"] == len(target.plugins()) >= summary["deprecated_plugins"]
    assert known_targets() == known_targets()
    assert known_targets().index("tensorrt-10.1") < known_targets().index("tensorrt-10.14")
