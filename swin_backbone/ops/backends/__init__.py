"""Implementations of shifted-window attention, one a file, all with one meaning."""

from .base import AttentionInputs, Backend
from .cpu import CPU
from .reference import REFERENCE
from .sdpa import SDPA
from .triton import TRITON

#: Every backend by its name.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (REFERENCE, SDPA, CPU, TRITON)}

__all__ = ["BACKENDS", "AttentionInputs", "Backend"]
