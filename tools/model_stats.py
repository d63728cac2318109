"""Count the parameters and FLOPs of configs: ``swin-backbone model-stats``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["model-stats", *sys.argv[1:]]))
