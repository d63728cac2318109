"""Implementations of shifted-window attention, one a file, all with one meaning."""

from ..cpu.attention_backend import CPU
from ..reference.attention_reference import REFERENCE
from ..reference.attention_sdpa import SDPA
from ..reference.window_steps import AttentionInputs, Backend
from ..triton_backend import TRITON

#: Every backend by its name.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (REFERENCE, SDPA, CPU, TRITON)}

__all__ = ["BACKENDS", "AttentionInputs", "Backend"]
