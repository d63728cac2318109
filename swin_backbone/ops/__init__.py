"""Functions on tensors: one operation, its geometry and its backends."""

from .attention import check_backend_name, choose_backend, shifted_window_attention
from .backends import BACKENDS, AttentionInputs, Backend
from .packed import shifted_window_attention_packed
from .windows import WindowGrid, valid_tokens

__all__ = [
    "BACKENDS",
    "AttentionInputs",
    "Backend",
    "WindowGrid",
    "check_backend_name",
    "choose_backend",
    "shifted_window_attention",
    "shifted_window_attention_packed",
    "valid_tokens",
]
