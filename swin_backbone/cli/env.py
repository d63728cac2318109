"""What a report of a problem says about where it was seen: ``swin-backbone env``."""

from __future__ import annotations

from collections.abc import Sequence

from .commands import Parser, command
from .environment_report import report


@command
def main(argv: Sequence[str] | None = None) -> None:
    about = "Print versions, cards and what runs fast here, for a report of a problem."
    Parser(__file__, description=about).parse_args(argv)
    print(report())
