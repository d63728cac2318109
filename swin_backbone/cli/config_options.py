"""``--cfg-options``, for commands that import mmengine only if there are any."""

from __future__ import annotations

import argparse


class ChangesAction(argparse.Action):
    """mmengine's ``KEY=VALUE`` pairs; what is none is an error of the argument."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Parse one occurrence.

        Raises:
            argparse.ArgumentError: if a value has no ``=``, or brackets that do not close.
        """
        from mmengine.config import DictAction

        wrong = [value for value in values if not value.partition("=")[0] or "=" not in value]
        if wrong:
            raise argparse.ArgumentError(self, f"expected KEY=VALUE, got {wrong[0]!r}")
        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            raise argparse.ArgumentError(self, f"{' '.join(values)!r}: {error}") from error


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options``, as mmengine's tools have it."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ChangesAction,
        default={},
        metavar="KEY=VALUE",
        help="changes to the config, as key.subkey=value",
    )
