"""Targets: a TensorRT flavour and version with what it can take, as data."""

from surgery.targets.table import (
    OperatorEntry,
    PluginEntry,
    PluginField,
    Target,
    known_targets,
    resolve_target,
)

__all__ = ["OperatorEntry", "PluginEntry", "PluginField", "Target", "known_targets", "resolve_target"]
