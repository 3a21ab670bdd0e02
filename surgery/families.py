"""Choosing the pipeline of a model's family by looking at its graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from surgery.config import PipelineConfig
    from surgery.diagnose.family import Family


def family_for(model: str | Path | bytes | onnx.ModelProto) -> Family:
    """What kind of network a model is; its weights are not read.

    Args:
        model: Path, bytes or ModelProto.

    Raises:
        ModelError: the model cannot be read or is not valid ONNX.
    """
    from surgery.diagnose.family import family_of_model
    from surgery.diagnose.header import read_header

    if isinstance(model, (str, Path, bytes)):
        return family_of_model(read_header(model).proto)
    return family_of_model(model)


def chosen_pipeline(
    config: PipelineConfig, model: str | Path | bytes | onnx.ModelProto
) -> tuple[PipelineConfig, dict[str, str]]:
    """The pipeline of the model's family, with what the given one says on top, and why it is this one.

    Args:
        config: A pipeline that leaves the choice open (``choose: true``).
        model: The model.

    Returns:
        The pipeline, and ``chosen_by``, ``family`` and ``because`` for the report.

    Raises:
        ModelError: the model cannot be read or is not valid ONNX.
    """
    from surgery.config import based_on

    family = family_for(model)
    why = {"chosen_by": config.name, "family": family.name, "because": family.because}
    return based_on(config, family.pipeline), why


def rules_alone(config: PipelineConfig) -> PipelineConfig:
    """The pipeline that knows no family, with what the given one says on top."""
    from surgery.config import based_on

    return based_on(config, "generic")
