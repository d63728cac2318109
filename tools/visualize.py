"""Show what a backbone sees in an image: ``swin-backbone visualize``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["visualize", *sys.argv[1:]]))
