"""What ``swin-backbone`` takes, and which function runs it.

A command's module is imported when it is called: nothing that another needs is.
"""

from __future__ import annotations

import importlib
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from .commands import NAME, Parser, one_line_errors

#: What each command does, in the order in which people need them.
COMMANDS = {
    "demo": "train a small model on generated scenes, on the CPU, and paint it",
    "new": "look at a folder of your own data, and write a config that trains on it",
    "train": "train the model of a config",
    "test": "evaluate a checkpoint on a config's test split",
    "predict": "segment images, or detect what is in them, and paint the result",
    "demo-app": "a page on which a dropped image shows what a model makes of it",
    "contact-sheet": "paint images, truth and predictions of a val split",
    "visualize": "show what a backbone sees in an image",
    "extract-features": "extract features of images or of a video, into shards",
    "linear-probe": "label pixels from frozen features",
    "export": "write a model as ONNX, torch.export or AOTInductor",
    "convert-checkpoint": "turn a Swin checkpoint of any library into one for another",
    "benchmark": "time a config's model, as it is, with stock Swin, and accelerated",
    "compile-kernels": "compile the kernels that training a config takes, before it begins",
    "accelerate": "say what of a model of transformers or timm runs faster here, and what not",
    "model-stats": "count the parameters and FLOPs of configs",
    "make-demo-data": "generate a small segmentation data set",
    "env": "print versions, cards and what runs fast here, for a report of a problem",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: words after ``swin-backbone``; ``None``: of the process.

    Returns:
        The exit status: 0, or 1 where a command could not do all that was asked for.

    Raises:
        SystemExit: with 0 after ``--help`` and ``--version``, with 2 for what the user got wrong.
    """
    words = [str(word) for word in (sys.argv[1:] if argv is None else argv)]
    if words and words[0] in COMMANDS:
        return _run(words[0], words[1:])
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items())
    parser = Parser(
        NAME,
        usage=f"{NAME} COMMAND ...",
        description="Swin Transformer for dense prediction.",
        epilog=f"commands:\n{listed}\n\n'{NAME} COMMAND --help' says what a command takes.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    parser.parse_args(words)  # help, the version, or a word that is no command
    raise AssertionError("a command that is known was not run")


def _run(name: str, words: list[str]) -> int:
    with one_line_errors(f"{NAME} {name}"):  # the module may need a package that is not there
        module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    return module.main(words)
