"""What to install where an optional package is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: The extra that brings an optional package, by the name that it is imported by.
EXTRAS = {
    "mmengine": "onedl",
    "mmcv": "onedl",
    "mmseg": "onedl",
    "mmdet": "onedl,detection",
    "rich": "onedl",
    "yaml": "onedl",
    "cv2": "images",
    "PIL": "images",
    "matplotlib": "visualization",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "pyarrow": "features",
    "ray": "ray",
    "sklearn": "probe",
    "gradio": "demo",
    "starlette": "demo",
    "huggingface_hub": "hub",
    "timm": "benchmark",
    "torchvision": "benchmark",
    "transformers": "benchmark",
}


def extra_of(module: str | None) -> str | None:
    """The extra that brings a module, or ``None`` if none does."""
    return EXTRAS.get((module or "").partition(".")[0])


def how_to_install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'swin-backbone[{extra}]' (from a checkout: pip install -e '.[{extra}]')"


@contextmanager
def from_extra(extra: str) -> Iterator[None]:
    """Around imports of packages of one extra: say its name where one is missing.

        with from_extra("export"):
            import onnxruntime

    Args:
        extra: one of the optional dependencies in ``pyproject.toml``.

    Raises:
        ModuleNotFoundError: as the import does, with the command that installs the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.msg}: {how_to_install(extra)}", name=error.name
        ) from error
