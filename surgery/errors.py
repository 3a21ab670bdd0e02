"""The errors a user can meet, one class per exit code.

Every error says where it happened, what went wrong, why, and how to fix it. Code raises the subclass
whose exit code is right; only the command line turns it into text.
"""

from __future__ import annotations

from typing import ClassVar


class SurgeryError(Exception):
    """Base of all errors that `surgery` raises on purpose.

    Args:
        message: What went wrong, one sentence.
        code: A short stable identifier for programs, in kebab-case (``"model-not-found"``).
        where: The file (with line and column where there is one), node or option concerned.
        cause: Why it went wrong, where that is known and not obvious from the message.
        fix: What the user can do about it.
        node: Name of the graph node concerned, if any.
        stage: Name of the pipeline stage; filled in by the run loop when a stage raises.
        needs_constant: Names of inputs that the user has to give as constants.
    """

    exit_code: ClassVar[int] = 70
    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        where: str | None = None,
        cause: str | None = None,
        fix: str | None = None,
        node: str | None = None,
        stage: str | None = None,
        needs_constant: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.where = where
        self.cause = cause
        self.fix = fix
        self.node = node
        self.stage = stage
        self.needs_constant = needs_constant

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        lines = [head]
        if self.cause:
            lines.append(f"cause: {self.cause}")
        if self.fix:
            lines.append(f"fix: {self.fix}")
        return "\n".join(lines)


class ConfigError(SurgeryError):
    """Usage or configuration: pipeline YAML, options, a required cut that matches nothing (exit 2)."""

    exit_code = 2
    default_code = "config"


class ModelError(SurgeryError):
    """The model cannot be read or is not valid ONNX (exit 3)."""

    exit_code = 3
    default_code = "model"


class ConversionError(SurgeryError):
    """Part of the graph cannot be brought into a form that the target's parser takes (exit 4)."""

    exit_code = 4
    default_code = "not-convertible"


class BuildError(SurgeryError):
    """The builder refused, aborted, or ran out of time or memory (exit 5)."""

    exit_code = 5
    default_code = "build-failed"


class VerificationError(SurgeryError):
    """The result does not compute what the original computes (exit 6)."""

    exit_code = 6
    default_code = "verification-failed"


class MissingEnvironmentError(SurgeryError):
    """Something the pipeline needs is not installed, or no GPU where one is required (exit 7)."""

    exit_code = 7
    default_code = "environment"
