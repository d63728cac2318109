"""Write a model to a file that runs without this package: ``swin-backbone export``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
