"""The JSON Schema of pipeline files, for editors, for `surgery show stages` and for the documentation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from surgery.config import PipelineFile, stage_adapter
from surgery.stages import STAGES

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ATTRIBUTE = re.compile(r"^    (\w+): (.*)$")


def pipeline_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a pipeline file, with the options of every stage."""
    adapters: dict[str, TypeAdapter[Any]] = {n: stage_adapter(n) for n in STAGES}
    wanted: list[tuple[str, Any, TypeAdapter[Any]]] = [("file", "validation", TypeAdapter(PipelineFile))]
    wanted += [(name, "validation", adapter) for name, adapter in adapters.items()]
    refs, shared = TypeAdapter.json_schemas(wanted)
    definitions = {n: _documented(d) for n, d in shared["$defs"].items()}
    file = definitions.pop(PipelineFile.__name__)
    file["properties"]["stages"]["items"] = {
        "anyOf": [
            {"enum": list(STAGES)},
            {
                "type": "object",
                "properties": {
                    name: {"anyOf": [refs[(name, "validation")], {"type": "null"}]} for name in STAGES
                },
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
    return {"$schema": SCHEMA_DIALECT, **file, "$defs": definitions}


def stage_schema(name: str) -> dict[str, Any]:
    """JSON Schema of the options of one stage.

    Raises:
        KeyError: there is no such stage.
    """
    schema = stage_adapter(name).json_schema()
    definitions = {n: _documented(d) for n, d in schema.pop("$defs", {}).items()}
    return {**_documented(schema), **({"$defs": definitions} if definitions else {})}


def class_schema(kind: Any) -> dict[str, Any]:
    """JSON Schema of one class of a file, with what its docstring says of each key."""
    schema = TypeAdapter(kind).json_schema()
    definitions = {n: _documented(d) for n, d in schema.pop("$defs", {}).items()}
    return {**_documented(schema), **({"$defs": definitions} if definitions else {})}


def _documented(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of one class, with what its docstring says of each attribute put beside the attribute."""
    result = dict(schema)
    text, _, attributes = str(schema.get("description", "")).partition("\n\nAttributes:\n")
    if text:
        result["description"] = " ".join(text.split())
    meanings = _attributes(attributes)
    properties = {}
    for name, node in schema.get("properties", {}).items():
        meaning = meanings.get(name)
        properties[name] = {**node, "description": meaning} if meaning else dict(node)
        properties[name].pop("title", None)
    if properties:
        result["properties"] = properties
    return result


def _attributes(section: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = None
    for line in section.splitlines():
        match = _ATTRIBUTE.match(line)
        if match:
            name = match[1]
            found[name] = match[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return {n: t.replace("``", "`") for n, t in found.items()}
