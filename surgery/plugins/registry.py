"""The registry: plugin folders, shipped ones and a user's own, read by the same code."""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from surgery._data_dirs import shipped_dir
from surgery.config_errors import Checker
from surgery.errors import ConfigError, SurgeryError
from surgery.plugins.definition import PluginDefinition
from surgery.plugins.schema import PluginFile, Sample, SampleFile, SampleInput, version_key
from surgery.user_code import mistake
from surgery.yaml_source import ConfigProblemsError, load_yaml

M = TypeVar("M", bound=BaseModel)

_VERSION_FOLDER = re.compile(r"_v\d+$")
"""End of a folder's name that tells versions of one plugin apart, where they need definitions of their own."""


class Registry:
    """Definitions by name and version.

    Args:
        definitions: What it holds; a later definition of the same name and version replaces an earlier one.
        shipped: Folders that are read only when their plugin is asked for, by the plugin's name; several if
            versions have definitions of their own.
    """

    def __init__(
        self, definitions: Iterable[PluginDefinition] = (), shipped: Mapping[str, list[Path]] | None = None
    ) -> None:
        self._by_name: dict[str, dict[str, PluginDefinition]] = {}
        self._unread = dict(shipped or {})
        for definition in definitions:
            self._by_name.setdefault(definition.name, {})[definition.version] = definition

    @classmethod
    def load(cls, paths: Sequence[Path] = (), *, shipped: bool = True) -> Registry:
        """Read the shipped plugins and then a user's folders, which win over shipped ones.

        Args:
            paths: Folders that hold plugin folders, or are one.
            shipped: Include the plugins that come with the package.

        Raises:
            ConfigError: a folder is missing or a definition is wrong; with file, line and column.
        """
        definitions = []
        for root in map(Path, paths):
            folders = _plugin_folders(root)
            if not folders:
                raise ConfigError(
                    "holds no plugin: no plugin.yaml in it or in a folder of it",
                    code="no-plugin",
                    where=str(root),
                )
            for folder in folders:
                definitions += load_plugin(folder).versions()
        lazy = _plugin_folders(shipped_dir("plugins")) if shipped else []
        by_name: dict[str, list[Path]] = {}
        for folder in lazy:
            by_name.setdefault(_VERSION_FOLDER.sub("", folder.name), []).append(folder)
        return cls(definitions, by_name)

    def _read(self, name: str) -> None:
        """Read the shipped plugin of that name, if there is one and it has not been read."""
        for folder in self._unread.pop(name, []):
            for definition in load_plugin(folder).versions():
                if definition.name != name:
                    raise ConfigError(
                        f"the plugin is named {definition.name!r}; its folder has to be named so too",
                        code="bad-definition",
                        where=str(folder),
                    )
                self._by_name.setdefault(name, {}).setdefault(definition.version, definition)

    def names(self) -> list[str]:
        """All plugin names, sorted."""
        return sorted({*self._by_name, *self._unread})

    def definitions(self) -> list[PluginDefinition]:
        """All definitions, sorted by name and version."""
        for name in list(self._unread):
            self._read(name)
        return [
            versions[v]
            for _, versions in sorted(self._by_name.items())
            for v in sorted(versions, key=version_key)
        ]

    def versions_of(self, name: str) -> list[PluginDefinition]:
        """The definitions of one plugin, sorted by version.

        Raises:
            ConfigError: there is none; near names are suggested.
        """
        self.get(name)
        return [d for _, d in sorted(self._by_name[name].items(), key=lambda v: version_key(v[0]))]

    def find(self, name: str, version: str | None = None) -> PluginDefinition | None:
        """The definition, the newest version if none is named; None if there is none."""
        self._read(name)
        versions = self._by_name.get(name, {})
        if version is not None:
            return versions.get(version)
        return versions[max(versions, key=version_key)] if versions else None

    def get(self, name: str, version: str | None = None) -> PluginDefinition:
        """The definition, the newest version if none is named.

        Raises:
            ConfigError: there is none; near names are suggested.
        """
        found = self.find(name, version)
        if found is not None:
            return found
        if name in self._by_name:
            have = ", ".join(sorted(self._by_name[name]))
            raise ConfigError(f"plugin {name!r} has no version {version!r}, only {have}", code="no-plugin")
        near = difflib.get_close_matches(name, self.names(), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`surgery list plugins` has all"
        raise ConfigError(f"no plugin named {name!r}", code="no-plugin", fix=hint)


def _plugin_folders(root: Path) -> list[Path]:
    if (root / "plugin.yaml").is_file():
        return [root]
    if not root.is_dir():
        raise ConfigError("no such folder", code="no-plugin", where=str(root))
    return sorted(p.parent for p in root.glob("*/plugin.yaml"))


def load_plugin(folder: Path) -> PluginDefinition:
    """Read one plugin folder: plugin.yaml, body.py, samples.yaml, README.md.

    body.py is executed: a plugin folder is code, to be trusted like any Python package.

    Raises:
        ConfigError: a file is missing or wrong.
    """
    file = _read(PluginFile, folder / "plugin.yaml")
    for needed in ("body.py", "samples.yaml", "README.md"):
        if not (folder / needed).is_file():
            raise ConfigError(f"the folder has no {needed}", code="bad-definition", where=str(folder))
    samples = _read(SampleFile, folder / "samples.yaml")
    module = load_module(folder / "body.py")
    body: Any = getattr(module, "body", None)
    if not callable(body):
        raise ConfigError(
            "does not define a function body(node)", code="bad-definition", where=str(folder / "body.py")
        )
    definition = PluginDefinition(
        file,
        folder,
        body,
        check=getattr(module, "check", None),
        output_types=getattr(module, "output_types", None),
        successor=getattr(module, "successor", None),
        repair=getattr(module, "repair", None),
        fit=getattr(module, "fit", None),
        from_numbers=getattr(module, "from_numbers", None),
        samples=tuple(_with_weights(file, sample) for sample in samples.samples),
    )
    for sample in definition.samples:
        problems = definition.check(sample.attributes)
        if problems:
            raise ConfigError(
                f"sample {sample.name!r}: {'; '.join(problems)}",
                code="bad-definition",
                where=str(folder / "samples.yaml"),
            )
    return definition


def _with_weights(file: PluginFile, sample: Sample) -> Sample:
    """The sample with arrays in the place of descriptions of weights (`{shape: [4, 3], fill: normal}`)."""
    from surgery.plugins.samples import filled

    values = dict(sample.attributes)
    for name, value in values.items():
        attribute = file.attributes.get(name)
        if attribute is not None and attribute.type == "tensor" and isinstance(value, dict):
            seed = zlib.crc32(f"{sample.name}/{name}".encode())
            values[name] = filled(SampleInput.model_validate(value), seed)
    return sample.model_copy(update={"attributes": values})


def _read(model: type[M], path: Path) -> M:
    """A file as a Pydantic model; everything wrong with it is reported at once, in the file's order."""
    source = load_yaml(path)
    checker = Checker(source)
    result = checker.validate(TypeAdapter(model), source.data, ())
    if result is None:
        raise ConfigProblemsError(checker.sorted(), code="bad-definition")
    return result


def load_module(path: Path) -> ModuleType:
    """A Python file of a plugin's folder as a module.

    Raises:
        ConfigError: it raised an error.
    """
    name = f"surgery_plugin_{path.parent.name}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("cannot be loaded", code="bad-definition", where=str(path))
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling in the file look their module up here.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SurgeryError:
        del sys.modules[name]
        raise
    except Exception as error:  # whatever the file does
        del sys.modules[name]
        raise mistake(error, path, f"{path.name} while it was loaded") from error
    return module
