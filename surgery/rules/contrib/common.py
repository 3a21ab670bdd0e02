"""What the rules for com.microsoft share."""

from __future__ import annotations

from typing import Any

from surgery.rules.engine.rule import Sample

MS = "com.microsoft"
DOMAINS = {MS: 1}


def ms(text: str, opset: int = 18, **feeds: Any) -> Sample:
    """A sample with the domain imported; `@` stands for its name."""
    return Sample(text.replace("@", MS + "."), opset=opset, feeds=feeds, domains=DOMAINS)
