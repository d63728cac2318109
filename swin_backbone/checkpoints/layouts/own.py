"""The parameter names of this project."""

from .base import Layout

OWN = Layout(name="swin_backbone")
