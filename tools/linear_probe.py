"""Label pixels from frozen features: ``swin-backbone linear-probe``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["linear-probe", *sys.argv[1:]]))
