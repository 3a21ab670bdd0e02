"""References of the plugins that are no detection heads: plain numpy after the plugins' documented semantics.

A key is a plugin's name, or name and version ("Name:2") where versions compute different things.
"""

from __future__ import annotations

from references_other import deformable, simple, transformer

REFERENCES = {**simple.REFERENCES, **deformable.REFERENCES, **transformer.REFERENCES}
