"""Functions on tensors: one operation, its geometry and its backends."""

from .attention import check_backend_name, choose_backend, shifted_window_attention
from .backends import BACKENDS, AttentionInputs, Backend
from .windows import SMALL_MAP_RULES, WindowGrid, crop_bias_table, fit_window, log_spaced_offsets

__all__ = [
    "BACKENDS",
    "SMALL_MAP_RULES",
    "AttentionInputs",
    "Backend",
    "WindowGrid",
    "check_backend_name",
    "choose_backend",
    "crop_bias_table",
    "fit_window",
    "log_spaced_offsets",
    "shifted_window_attention",
]
