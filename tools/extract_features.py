"""Extract features of images or of a video: ``swin-backbone extract-features``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["extract-features", *sys.argv[1:]]))
