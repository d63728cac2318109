"""Features of many images: reading, extracting, and shards that survive a kill."""

from .extractor import DTYPES, Extractor, ExtractorSettings
from .job import Job, ShardWorker
from .shards import load_features, read_index
from .sources import Item, find_items

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
