"""Functions on tensors: operations, their geometry and their backends."""

from .attention import check_backend_name, choose_backend, shifted_window_attention
from .backends import BACKENDS, AttentionInputs, Backend
from .corner_pad import corner_pad
from .half_blocks import Windows, residual_attention, residual_mlp
from .low_precision import low_precision_copies
from .norm import (
    by_neighbour,
    layer_norm,
    merge_neighbours,
    merge_norm_linear,
    merge_packed,
    norm_beside,
)
from .packed import attend, shifted_window_attention_packed
from .packing import Packing, pack_pyramid
from .parameters import LinearParameters, NormParameters, product_dtype
from .patches import cut_patches, embed_patches, project, project_patches
from .pointwise import class_scores
from .products import scale_images
from .resize import add_resized, concatenate_resized, resize_bilinear, why_not_kernels
from .resized_argmax import ClassMap, Geometry, resized_argmax, resized_scores
from .resized_bands import View, Window, merged_argmax, view_scores
from .resized_losses import (
    ResizedLoss,
    count_correct,
    resized_binary_cross_entropy,
    resized_cross_entropy,
)
from .windows import (
    SMALL_MAP_RULES,
    WindowGrid,
    clear_padding,
    crop_bias_table,
    fit_window,
    log_spaced_offsets,
)

__all__ = [
    "BACKENDS",
    "SMALL_MAP_RULES",
    "AttentionInputs",
    "Backend",
    "ClassMap",
    "Geometry",
    "LinearParameters",
    "NormParameters",
    "Packing",
    "ResizedLoss",
    "View",
    "Window",
    "WindowGrid",
    "Windows",
    "add_resized",
    "attend",
    "by_neighbour",
    "check_backend_name",
    "choose_backend",
    "class_scores",
    "clear_padding",
    "concatenate_resized",
    "corner_pad",
    "count_correct",
    "crop_bias_table",
    "cut_patches",
    "embed_patches",
    "fit_window",
    "layer_norm",
    "log_spaced_offsets",
    "low_precision_copies",
    "merge_neighbours",
    "merge_norm_linear",
    "merge_packed",
    "merged_argmax",
    "norm_beside",
    "pack_pyramid",
    "product_dtype",
    "project",
    "project_patches",
    "residual_attention",
    "residual_mlp",
    "resize_bilinear",
    "resized_argmax",
    "resized_binary_cross_entropy",
    "resized_cross_entropy",
    "resized_scores",
    "scale_images",
    "shifted_window_attention",
    "shifted_window_attention_packed",
    "view_scores",
    "why_not_kernels",
]
