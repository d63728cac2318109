"""Generate a small segmentation data set: ``swin-backbone make-demo-data``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["make-demo-data", *sys.argv[1:]]))
