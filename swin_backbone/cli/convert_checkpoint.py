"""Turn a Swin checkpoint of any library into one for another.

    swin-backbone convert-checkpoint IN OUT --to timm

IN is a file or a folder, an http(s) address, hf-hub:org/name or timm:name; its layout is recognised
from keys and shapes. OUT is written as safetensors if its name ends so, else as PyTorch does; it
appears under its name only when it is complete.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ..atomic_files import write_whole
from ..checkpoints import (
    LIBRARIES,
    Windows,
    convert_checkpoint,
    read_checkpoint,
)
from .argument_types import not_negative, positive
from .commands import Parser, command


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN", help="path, address, hf-hub:org/name, timm:name")
    parser.add_argument("out", metavar="OUT", type=Path, help="file to write")
    parser.add_argument("--to", required=True, choices=LIBRARIES, help="whose layout to write")
    parser.add_argument(
        "--window-size",
        type=positive,
        nargs="+",
        help="rows and columns of the window in tokens; needed for the buffers that torchvision "
        "and mmpretrain keep for V2, if the checkpoint does not say it",
    )
    parser.add_argument(
        "--pretrained-window-sizes",
        type=not_negative,
        nargs="+",
        default=(),
        help="for these buffers: each stage's window in pretraining, 0 for the window itself",
    )
    parser.add_argument("--key", help="name of the state dict in IN, if it holds several")
    parser.add_argument("--prefix", help="in front of the backbone's keys, if IN holds several")
    args = parser.parse_args(argv)
    windows = chosen_windows(args)
    tensors, report = convert_checkpoint(
        read_checkpoint(args.source), args.to, windows, prefix=args.prefix, key=args.key
    )
    write(tensors, args.out, args.to)
    print(report)
    print(f"wrote {args.out}")


def chosen_windows(args: argparse.Namespace) -> Windows | None:
    """The windows of the command line, or ``None`` for the checkpoint's own."""
    if args.window_size is None:
        return None
    sizes = args.window_size
    if len(sizes) > 2:
        raise ValueError(f"--window-size takes one integer >= 1 or two, got {sizes}")
    trained = tuple((size, size) for size in args.pretrained_window_sizes)
    return Windows((sizes[0], sizes[-1]), trained)


def write(tensors: dict[str, torch.Tensor], path: Path, library: str) -> None:
    """Write all of a file or nothing of it."""
    write_whole(path, lambda unfinished: _write(tensors, unfinished, library))


def _write(tensors: dict[str, torch.Tensor], unfinished: Path, library: str) -> None:
    if unfinished.suffix == ".safetensors":
        import safetensors.torch

        safetensors.torch.save_file(tensors, unfinished, metadata={"format": "pt"})
        return
    with unfinished.open("wb") as file:  # given a path, PyTorch writes its name into the file
        # The original's own code looks for its weights under 'model'.
        torch.save({"model": tensors} if library == "official" else tensors, file)
