"""Whether this machine has a GPU, asked of the CUDA driver itself; imported only by the child process."""

from __future__ import annotations

import ctypes

from surgery.trt.types import GpuInfo


def find_gpu() -> tuple[GpuInfo | None, str | None]:
    """The first GPU, or the reason why there is none that can be used.

    CUDA Driver API: cuInit, cuDeviceGetCount, cuDeviceGetName, cuDeviceGetAttribute (75 and 76 are the major
    and minor compute capability).
    """
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            cuda = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        return None, "no NVIDIA driver on this machine"
    status = cuda.cuInit(0)
    if status != 0:
        return None, f"the NVIDIA driver does not start (CUDA error {status})"
    count = ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return None, "no NVIDIA GPU on this machine"
    label = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(label, 256, 0)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
    return GpuInfo(label.value.decode(), f"{major.value}.{minor.value}"), None
