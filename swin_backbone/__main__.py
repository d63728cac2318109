"""``python -m swin_backbone``: the command ``swin-backbone`` of this interpreter."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
