"""Segment images or detect what is in them, and paint the result: ``swin-backbone predict``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
