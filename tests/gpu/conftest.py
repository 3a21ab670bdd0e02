"""TensorRT where a GPU is that it runs on; tests that want it are skipped elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from surgery.targets import resolve_target
from surgery.trt.session import Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A worker of the installed flavour that has a GPU."""
    target = resolve_target(None)
    if not target.installed:
        pytest.skip("no TensorRT flavour is installed")
    with Worker(target.flavour) as found:
        environment = found.environment()
        if environment.gpu is None:
            pytest.skip(environment.reason_no_gpu or "no GPU")
        yield found
