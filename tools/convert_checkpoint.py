"""Turn a Swin checkpoint into one for another library: ``swin-backbone convert-checkpoint``."""

import sys

from swin_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert-checkpoint", *sys.argv[1:]]))
