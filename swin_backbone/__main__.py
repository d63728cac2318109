"""``python -m swin_backbone``: the command ``swin-backbone`` of this interpreter."""

import sys

from .cli import main

sys.exit(main())
