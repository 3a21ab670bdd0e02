"""Second implementations of the detection and ROI plugins, in plain numpy: name of the plugin -> function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

REFERENCES: dict[str, Callable[[dict[str, Any], list[np.ndarray]], list[np.ndarray]]] = {}
