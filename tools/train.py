"""Train a config, with mmengine's conventions: ``swin-backbone train``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
