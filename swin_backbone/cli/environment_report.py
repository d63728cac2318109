"""What a report of a problem has to say about where it was seen: ``swin-backbone env``."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata

import torch

from ..config_files import configs_folder
from ..openmmlab.installed_versions import describe_openmmlab
from ..ops import dispatch
from ..ops.torch_internals import describe
from ..version import __version__
from .backends import describe_backends, devices

#: Distributions beside OpenMMLab's whose versions matter, where they are installed.
PACKAGES = (
    "triton",
    "torchvision",
    "numpy",
    "pillow",
    "opencv-python",
    "opencv-python-headless",
    "safetensors",
    "timm",
    "transformers",
    "huggingface_hub",
    "onnx",
    "onnxruntime",
    "deepspeed",
)
#: Beginnings of the names of environment variables that change what runs.
VARIABLES = ("SWIN_BACKBONE_", "TRITON_", "TORCH_", "PYTORCH_", "CUDA_", "OMP_NUM_THREADS")


def report() -> str:
    """Lines of a name and a value, for a person to read and to paste. It never raises for what is
    missing or broken here: that is what it is to show."""
    lines = list(_lines())
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _lines() -> Iterator[tuple[str, str]]:
    yield "swin-backbone", f"{__version__} ({_origin()})"
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    built = torch.version.cuda or torch.version.hip
    yield "torch", f"{torch.__version__} (built for {f'CUDA {built}' if built else 'the CPU'})"
    for name in PACKAGES:
        version = _version(name)
        if version is not None or name == "triton":
            yield name, version or "not installed"
    yield "torch internals", describe()
    if _version("triton") is not None:
        yield "kernel launches", _launches()
    yield from describe_openmmlab()
    capability = torch.backends.cpu.get_cpu_capability()
    yield "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {capability}"
    if not torch.cuda.is_available():
        yield "gpu", f"none that torch can use: {_why_no_gpu()}"
    for device in devices()[1:]:
        properties = torch.cuda.get_device_properties(device)
        memory = properties.total_memory / 2**30
        capability = f"{properties.major}.{properties.minor}"
        yield str(device), f"{properties.name}, capability {capability}, {memory:.0f} GiB"
    for name in sorted(os.environ):
        if name.startswith(VARIABLES):
            yield name, os.environ[name]
    for device in devices():
        yield from describe_backends(device)


def _launches() -> str:
    if not dispatch.HAS_TRITON:
        return "none, triton is not installed"
    from ..ops.triton.direct_launch import why_plain  # imports triton

    try:
        reason = why_plain()
    except ValueError as error:
        return f"an error: {error}"
    return "direct, once compiled" if reason is None else f"plain ({reason})"


def _why_no_gpu() -> str:
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:  # of a build without CUDA, and of the driver
        return str(error).partition("\n")[0]
    return "no device is visible"


def _origin() -> str:
    try:
        folder = configs_folder()
    except FileNotFoundError:
        return "without configs"
    return "from a wheel" if folder.parent.name == ".mim" else "from a checkout"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
