"""Evaluate a checkpoint, with mmengine's conventions: ``swin-backbone test``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
