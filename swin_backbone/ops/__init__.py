"""Functions on tensors: operations, their geometry and their backends."""

from .attention import BACKENDS, shifted_window_attention
from .banded_argmax import View, Window, merged_argmax, view_scores
from .bilinear_resize import add_resized, concatenate_resized, resize_bilinear
from .deformable_attention import (
    DEFORMABLE_ATTENTION,
    multi_scale_deformable_attention,
    multi_scale_deformable_attention_gradients,
)
from .dispatch import check_backend_name
from .geometry.corner_pad import corner_pad
from .geometry.packing import Packing, join, pack_pyramid
from .geometry.token_layout import MAPS, TokenLayout, map_layouts
from .geometry.windows import (
    SMALL_MAP_RULES,
    WindowGrid,
    clear_padding,
    crop_bias_table,
    fit_window,
    log_spaced_offsets,
)
from .layer_parameters import LinearParameters, NormParameters, compute_dtype
from .linear import scale_images
from .norm import (
    by_neighbour,
    layer_norm,
    merge_neighbours,
    merge_norm_linear,
    merge_packed,
    norm_beside,
)
from .patch_embedding import cut_patches, embed_patches, project, project_patches
from .path_scales import draw_path_scales
from .photometric import DISTORTION, distort_images
from .pointwise import class_scores
from .position_bias import CosineScores, logit_factors, position_bias, reference_of
from .post_norm_branches import post_norm_attention, post_norm_mlp
from .reference.window_steps import AttentionInputs
from .residual_branches import Windows, residual_attention, residual_mlp
from .residual_stages import ResidualBlock, residual_blocks, takes_stages
from .resized_argmax import ClassMap, Geometry, resized_argmax, resized_scores
from .resized_losses import (
    ResizedLoss,
    count_correct,
    resized_binary_cross_entropy,
    resized_cross_entropy,
)
from .roi_align import ROI_ALIGN, roi_align
from .suppression import SUPPRESSION, non_maximum_suppression, unsuppressed
from .variable_length_attention import attend, shifted_window_attention_packed
from .weight_copies import LowPrecisionCopies

__all__ = [
    "BACKENDS",
    "DEFORMABLE_ATTENTION",
    "DISTORTION",
    "MAPS",
    "ROI_ALIGN",
    "SMALL_MAP_RULES",
    "SUPPRESSION",
    "AttentionInputs",
    "ClassMap",
    "CosineScores",
    "Geometry",
    "LinearParameters",
    "LowPrecisionCopies",
    "NormParameters",
    "Packing",
    "ResidualBlock",
    "ResizedLoss",
    "TokenLayout",
    "View",
    "Window",
    "WindowGrid",
    "Windows",
    "add_resized",
    "attend",
    "by_neighbour",
    "check_backend_name",
    "class_scores",
    "clear_padding",
    "compute_dtype",
    "concatenate_resized",
    "corner_pad",
    "count_correct",
    "crop_bias_table",
    "cut_patches",
    "distort_images",
    "draw_path_scales",
    "embed_patches",
    "fit_window",
    "join",
    "layer_norm",
    "log_spaced_offsets",
    "logit_factors",
    "map_layouts",
    "merge_neighbours",
    "merge_norm_linear",
    "merge_packed",
    "merged_argmax",
    "multi_scale_deformable_attention",
    "multi_scale_deformable_attention_gradients",
    "non_maximum_suppression",
    "norm_beside",
    "pack_pyramid",
    "position_bias",
    "post_norm_attention",
    "post_norm_mlp",
    "project",
    "project_patches",
    "reference_of",
    "residual_attention",
    "residual_blocks",
    "residual_mlp",
    "resize_bilinear",
    "resized_argmax",
    "resized_binary_cross_entropy",
    "resized_cross_entropy",
    "resized_scores",
    "roi_align",
    "scale_images",
    "shifted_window_attention",
    "shifted_window_attention_packed",
    "takes_stages",
    "unsuppressed",
    "view_scores",
]
