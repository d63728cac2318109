"""What arguments of the commands may be: ``type``s of ``argparse`` that name what is wrong."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..checkpoints import list_checkpoints
from ..config_files import config_path, list_configs
from ..model.presets import list_architectures

#: Suffixes of what is a config's path, and not its name.
CONFIGS = (".py", ".json", ".yaml", ".yml")
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


def config(text: str) -> str:
    """Path of a config, from itself or from the name of one of the project's."""
    path = Path(text)
    if path.is_file():
        return text
    problem = f"config {text!r} is not a file"
    if path.exists() or path.suffix in CONFIGS:
        raise argparse.ArgumentTypeError(problem)
    try:
        return config_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{problem}, and {error}") from error


class ModelFiles(argparse.Action):
    """Pairs of a config, or its name, and a checkpoint, and exported models among them:
    ``[(config, checkpoint), (model, None), ...]``."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Pair the words.

        Raises:
            argparse.ArgumentError: if one is left over, or a config is not there.
        """
        pairs: list[tuple[str, str | None]] = []
        words = iter(values)
        for word in words:
            if word.endswith(".onnx"):
                pairs.append((word, None))
                continue
            checkpoint = next(words, None)
            if checkpoint is None:
                raise argparse.ArgumentError(self, "each CONFIG needs its CHECKPOINT")
            try:
                pairs.append((config(word), checkpoint))
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, str(error)) from error
        setattr(namespace, self.dest, pairs)


def backbone(text: str) -> str:
    """An architecture's or a checkpoint's name as it is, or the path of a config, see above."""
    path = Path(text)
    names = [*list_architectures(), *(entry.name for entry in list_checkpoints())]
    if text in names:
        return text
    if path.exists() or path.suffix in CONFIGS:
        return config(text)
    try:
        return config_path(text)
    except ValueError as error:
        near = difflib.get_close_matches(text, [*names, *list_configs()], n=4, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise argparse.ArgumentTypeError(
            f"must be a config, its name (swin_backbone.list_configs()), or the name of an "
            f"architecture or public checkpoint, got {text!r}{hint}"
        ) from error
