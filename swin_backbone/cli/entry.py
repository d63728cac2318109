"""What ``swin-backbone`` takes, and which function runs it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..version import __version__
from .environment import report


class _Parser(argparse.ArgumentParser):
    """Errors are one line and exit status 2, as those of the project's tools are."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message} (--help shows the usage)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: words after its name; ``None``: of the process.

    Returns:
        The exit status, 0.

    Raises:
        SystemExit: with 0 after ``--help`` and ``--version``, with 2 if the words do not fit.
    """
    parser = _Parser(prog="swin-backbone", description="Swin Transformer for dense prediction.")
    parser.add_argument("--version", action="version", version=f"swin-backbone {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    about = "print versions, cards and what runs fast here, for a report of a problem"
    commands.add_parser("env", help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.parse_args(argv)  # there is one command: what is not it, argparse refuses
    print(report())
    return 0
