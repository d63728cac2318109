"""What arguments of the commands may be: ``type``s of ``argparse`` that name what is wrong."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch

#: Suffixes that both Pillow and Matplotlib write.
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """Integers from ``least`` to ``most``."""
    wanted = f"an integer >= {least}" + ("" if most is None else f" and <= {most}")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
        return value

    return parse


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Finite numbers from ``least`` to ``most``; with ``above``, larger than ``least``."""
    wanted = f"a number {'>' if above else '>='} {least:g}"
    wanted += "" if most == math.inf else f" and <= {most:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        too_small = value <= least if above else value < least
        if not math.isfinite(value) or too_small or value > most:
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
        return value

    return parse


positive = integer(1)
not_negative = integer(0)
#: Seeds that all generators take.
seed = integer(0, 2**32 - 1)
port = integer(1, 65535)
fraction = number(0, 1)


def device(text: str) -> str:
    """A device of PyTorch's that is here."""
    try:
        found = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(
            f"{text!r}: PyTorch sees {torch.cuda.device_count()} CUDA devices here"
        )
    return text


def picture(text: str) -> Path:
    """A file to paint into, whose suffix says how."""
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"must end in one of {', '.join(PICTURES)}, got {text!r}")
    return path
