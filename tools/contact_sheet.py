"""Images of a val split, their truth and predictions: ``swin-backbone contact-sheet``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["contact-sheet", *sys.argv[1:]]))
