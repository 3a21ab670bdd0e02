"""What is installed here, whether it fits together, and what each command can do with it."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from surgery.errors import MissingEnvironmentError

SECONDS = 30.0
"""Time that the driver may take to answer."""

PACKAGES = (
    "surgery", "onnx", "onnxruntime", "onnx-graphsurgeon", "polygraphy", "numpy", "networkx", "pydantic", "protobuf",
    "ml_dtypes", "typer", "ruamel.yaml",
)  # fmt: skip

CAPABILITIES: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    # From which version on a flavour runs on which compute capabilities; the last entry that fits counts.
    # TensorRT-RTX: the members of its enum ComputeCapability; 1.6.1 was run on an H200 (9.0) besides (docs/gpu.md).
    # TensorRT: support matrices of the releases.
    "tensorrt-rtx": (
        ("1.0", ("7.5", "8.0", "8.6", "8.9", "9.0", "12.0")),
        ("1.7", ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")),
    ),
    "tensorrt": (
        ("8.6", ("6.0", "6.1", "7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0")),
        ("10.0", ("7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0")),
        ("10.8", ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "12.0")),
        ("11.0", ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")),
    ),
}

_PROBE = """
import ctypes, json
from surgery.trt.gpu import find_gpu
gpu, why = find_gpu()
driver = None
for name in ("libcuda.so.1", "nvcuda.dll"):
    try:
        found = ctypes.c_int()
        if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(found)) == 0:
            driver = f"{found.value // 1000}.{found.value % 1000 // 10}"
        break
    except OSError:
        continue
capability = gpu and gpu.compute_capability
print(json.dumps({"name": gpu and gpu.name, "capability": capability, "why": why, "cuda": driver}))
"""


@dataclass(frozen=True, slots=True)
class Ability:
    """What a command can do here.

    Attributes:
        command: Its name.
        can: ``yes``, ``partly`` or ``no``.
        text: What it can do, or why not, and what to install for more.
    """

    command: str
    can: str
    text: str


@dataclass(slots=True)
class Diagnosis:
    """What was found.

    Attributes:
        python: Version, implementation and platform.
        packages: Package to version, None where it is not installed.
        flavours: Flavour to version, whether it loads, why not, whether it runs on the GPU, and why not.
        gpu: Name and compute capability, or why there is none; the driver's CUDA version.
        providers: Execution providers of ONNX Runtime.
        problems: What does not fit together, with what to do.
        abilities: What each command can do.
    """

    python: str
    packages: dict[str, str | None] = field(default_factory=dict)
    flavours: dict[str, dict[str, Any]] = field(default_factory=dict)
    gpu: dict[str, Any] = field(default_factory=dict)
    providers: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    abilities: list[Ability] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "schema": 1,
            "python": self.python,
            "packages": self.packages,
            "tensorrt": self.flavours,
            "gpu": self.gpu,
            "onnxruntime_providers": self.providers,
            "problems": [{"what": w, "fix": f} for w, f in self.problems],
            "commands": [{"command": a.command, "can": a.can, "text": a.text} for a in self.abilities],
        }


def diagnose() -> Diagnosis:
    """Look at what is installed; TensorRT and the driver are asked in child processes."""
    system = platform.platform(terse=True)
    result = Diagnosis(f"{platform.python_version()} ({platform.python_implementation()}) on {system}")
    result.packages = {name: installed(name) for name in PACKAGES}
    result.gpu = _gpu()
    _requirements(result)
    _imports(result)
    _tensorrt(result)
    result.abilities = abilities(result)
    return result


def installed(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (1, 7, 1) of ``1.7.1rc2``."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def runs_on(flavour: str, version: str, capability: str) -> bool:
    """Whether a version of a flavour runs on GPUs of a compute capability, as far as is known."""
    fitting = [c for first, c in CAPABILITIES[flavour] if numbers(first) <= numbers(version)]
    return capability in (fitting[-1] if fitting else CAPABILITIES[flavour][0][1])


def _gpu() -> dict[str, Any]:
    root = str(Path(__file__).resolve().parents[2])
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{_PROBE}"],
            capture_output=True, text=True, timeout=SECONDS, check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {
            "name": None,
            "capability": None,
            "why": "the NVIDIA driver does not answer",
            "cuda": None,
            "driver": None,
        }
    version = Path("/proc/driver/nvidia/version")
    return {**found, "driver": driver_in(version.read_text()) if version.is_file() else None}


def driver_in(text: str) -> str | None:
    """The driver's version in what ``/proc/driver/nvidia/version`` says."""
    number = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", text)
    return number.group(1) if number else None


@lru_cache(maxsize=1)
def _wanted() -> dict[str, str]:
    """Package to the oldest version that surgery needs, from its own metadata."""
    if not installed("surgery"):  # a checkout on the path
        return {name: "0" for name in PACKAGES if name not in ("surgery", "protobuf", "ml_dtypes")}
    found = {}
    for line in metadata.requires("surgery") or ():
        match = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", line)
        if match and "extra ==" not in line:
            found[match.group(1)] = match.group(2)
    return found


def _requirements(result: Diagnosis) -> None:
    for name, oldest in _wanted().items():
        if name == "tensorrt-rtx":
            continue
        version = installed(name)
        if version is None:
            wanted = f"'{name}>={oldest}'" if oldest != "0" else name
            result.problems.append((f"{name} is not installed", f"pip install {wanted}"))
        elif numbers(version) < numbers(oldest):
            result.problems.append(
                (f"{name} {version} is older than {oldest}", f"pip install '{name}>={oldest}'")
            )


def _imports(result: Diagnosis) -> None:
    """Import what everything needs: packages that were built for other versions of each other fail here."""
    for name in ("numpy", "onnx", "onnxruntime", "onnx_graphsurgeon"):
        try:
            module = __import__(name)
        except Exception as error:  # ImportError as a rule, but binary packages raise others, too
            first = (str(error).splitlines() or [type(error).__name__])[0]
            again = f"pip install --force-reinstall {name.replace('_', '-')}"
            result.problems.append((f"{name} cannot be imported: {first}", again))
            continue
        if name == "onnxruntime":
            result.providers = list(module.get_available_providers())
    both = [n for n in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml") if installed(n)]
    if len(both) > 1:
        result.problems.append(
            (
                f"{' and '.join(both)} are installed; they overwrite each other's files",
                f"pip uninstall {both[0]}",
            )
        )


def _tensorrt(result: Diagnosis) -> None:
    from surgery.trt.session import Worker, installed_flavours

    for flavour, version in installed_flavours().items():
        entry: dict[str, Any] = {
            "version": version,
            "loads": False,
            "why": None,
            "runs": False,
            "why_not": None,
        }
        result.flavours[flavour] = entry
        _parts(result, flavour, version)
        try:
            with Worker(flavour) as worker:
                found = worker.environment()
        except MissingEnvironmentError as error:
            entry["why"] = error.cause or error.message
            result.problems.append(
                (f"{flavour} {version} does not load: {entry['why']}", error.fix or "install it again")
            )
            continue
        entry["loads"] = True
        if found.version.split(".")[:3] != version.split(".")[:3] and found.version != "unknown":
            text = f"the package {flavour} is {version}, and its library says {found.version}"
            result.problems.append((text, f"pip install --force-reinstall {flavour}=={version}"))
        if found.gpu is None:
            entry["why_not"] = found.reason_no_gpu
        elif not runs_on(flavour, version, found.gpu.compute_capability):
            entry["why_not"] = f"{version} is not for compute capability {found.gpu.compute_capability}"
            result.problems.append(
                (
                    f"{flavour} {entry['why_not']} ({found.gpu.name})",
                    _other(flavour, found.gpu.compute_capability),
                )
            )
        else:
            entry["runs"] = True
    if not result.flavours:
        result.problems.append(
            (
                "no TensorRT is installed: nothing can be parsed or built",
                "pip install tensorrt-rtx (or tensorrt)",
            )
        )


def _other(flavour: str, capability: str) -> str:
    fits = [first for first, c in CAPABILITIES[flavour] if capability in c]
    other = "tensorrt" if flavour == "tensorrt-rtx" else "tensorrt-rtx"
    if fits:
        older = [first for first, _ in CAPABILITIES[flavour] if numbers(first) > numbers(fits[-1])]
        return f"pip install '{flavour}<{older[0]}'" if older else f"pip install '{flavour}>={fits[-1]}'"
    return (
        f"pip install {other}" if any(capability in c for _, c in CAPABILITIES[other]) else "use another GPU"
    )


def _parts(result: Diagnosis, flavour: str, version: str) -> None:
    """The packages that one flavour comes in have to be of one version."""
    module = flavour.replace("-", "_")
    names = [
        f"{module}{s}"
        for s in ("", "_cu12", "_cu12_bindings", "_cu12_libs", "_cu13", "_cu13_bindings", "_cu13_libs")
    ]
    found = {n: v for n in names if (v := installed(n)) is not None}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{n} {v}" for n, v in found.items())
        result.problems.append(
            (
                f"parts of {flavour} are of different versions: {listed}",
                f"pip install --force-reinstall {flavour}=={version}",
            )
        )


NO_TENSORRT = "the real parser: install tensorrt-rtx, which needs no GPU for it (pip install tensorrt-rtx)"


def abilities(result: Diagnosis) -> list[Ability]:
    """What each command can do with what was found."""
    marks = ("cannot be imported", " is not installed")
    broken = [what for what, _ in result.problems if any(what.endswith(m) or f"{m}:" in what for m in marks)]
    if broken:
        commands = ("inspect", "explain", "run", "build", "verify", "reduce", "diff")
        return [Ability(name, "no", broken[0]) for name in commands]
    flavours = result.flavours
    listed = " and ".join(f"{n} {e['version']}" for n, e in flavours.items() if e["loads"])
    runs = any(e["runs"] for e in flavours.values())
    reasons = [e["why_not"] for e in flavours.values() if e["why_not"]]
    no_gpu = reasons[0] if reasons else "no TensorRT is installed"
    engine = f"and runs them on {result.gpu.get('name')}" if runs else f"which are not run: {no_gpu}"
    full = "yes" if runs else "partly"
    if listed:
        said = {
            "inspect": ("yes", f"from tables, and the parser of {listed} is asked"),
            "explain": ("yes", f"with parser and builder of {listed}"),
            "run": (full, f"builds engines for {listed}, {engine}"),
            "build": ("yes", f"engines for {listed}"),
        }
    else:
        said = {
            "inspect": ("yes", f"from tables; not {NO_TENSORRT}"),
            "explain": ("partly", f"from tables; not {NO_TENSORRT}"),
            "run": ("partly", f"prepares ONNX and builds no engine; not {NO_TENSORRT}"),
            "build": ("no", f"needs {NO_TENSORRT}"),
        }
    said["verify"] = ("yes", "on the GPU") if runs else ("no", f"needs a GPU: {no_gpu}")
    what = "--while and --check" if listed else "--check"
    said["reduce"] = (full, what if runs else f"{what}; not 'engine differs': {no_gpu}")
    said["diff"] = ("yes", "two models, without TensorRT")
    return [Ability(name, can, text) for name, (can, text) in said.items()]
