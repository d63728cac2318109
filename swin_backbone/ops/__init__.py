"""Functions on tensors: operations, their geometry and their backends."""

from .attention import check_backend_name, choose_backend, shifted_window_attention
from .backends import BACKENDS, AttentionInputs, Backend
from .half_blocks import Windows, residual_attention, residual_mlp
from .norm import layer_norm, merge_neighbours, merge_norm_linear
from .parameters import LinearParameters, NormParameters, product_dtype
from .products import scale_images
from .windows import WindowGrid

__all__ = [
    "BACKENDS",
    "AttentionInputs",
    "Backend",
    "LinearParameters",
    "NormParameters",
    "WindowGrid",
    "Windows",
    "check_backend_name",
    "choose_backend",
    "layer_norm",
    "merge_neighbours",
    "merge_norm_linear",
    "product_dtype",
    "residual_attention",
    "residual_mlp",
    "scale_images",
    "shifted_window_attention",
]
