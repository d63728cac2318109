"""Features of many images: reading, extracting, and shards that survive a kill.

:class:`Extractor` needs torch alone. What reads files or writes shards needs the extras ``images``
and ``features``, and is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .extractor import DTYPES, Extractor, ExtractorSettings

if TYPE_CHECKING:
    from .feature_inputs import Item, find_items
    from .job import Job, ShardWorker
    from .shards import load_features, read_index

_MODULES = {
    "Item": ".feature_inputs",
    "find_items": ".feature_inputs",
    "Job": ".job",
    "ShardWorker": ".job",
    "load_features": ".shards",
    "read_index": ".shards",
}

__all__ = [
    "DTYPES",
    "Extractor",
    "ExtractorSettings",
    "Item",
    "Job",
    "ShardWorker",
    "find_items",
    "load_features",
    "read_index",
]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
