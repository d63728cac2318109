"""Make data, train, evaluate, look: ``swin-backbone demo``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
