"""A page on which a dropped image shows what a model makes of it: ``swin-backbone demo-app``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo-app", *sys.argv[1:]]))
