"""The parameter names of this project."""

from .layout import Layout, swin_names

OWN = Layout(name="swin_backbone", names={v: swin_names(v) for v in ("v1", "v2")})
