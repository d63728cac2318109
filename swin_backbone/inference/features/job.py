"""A job: items cut into shards, each done once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from ...atomic_files import remove_leftovers, write_text
from ...device_memory import is_out_of_memory
from ...images import UnreadableImageError
from ..media_files import as_text
from .extractor import Extractor, ExtractorSettings
from .feature_inputs import Item, Reader
from .shards import is_done, write_shard


@dataclasses.dataclass(frozen=True)
class Job:
    """What to extract, of what, and where to.

    Args:
        out: folder for shards and index.
        items: images and frames, in order.
        settings: what to extract.
        shard_size: items a shard. A killed job loses the shards it was working on.
    """

    out: Path
    items: Sequence[Item]
    settings: ExtractorSettings
    shard_size: int = 256

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {self.shard_size}")

    @property
    def num_shards(self) -> int:
        return -(-len(self.items) // self.shard_size)

    def items_of(self, shard: int) -> Sequence[Item]:
        """The items of one shard."""
        return self.items[shard * self.shard_size : (shard + 1) * self.shard_size]

    def start(self) -> list[int]:
        """Write down the plan, or check that it is the one of an earlier start.

        Returns:
            The shards that are still to be done.

        Raises:
            ValueError: if the folder holds a job with other settings or items.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        plan = self.out / "plan.json"
        if not plan.exists():
            write_text(plan, json.dumps(self._plan()))
        written = json.loads(plan.read_text())
        different = [key for key, value in self._plan().items() if written.get(key) != value]
        if different:
            raise ValueError(
                f"{self.out} holds a job with other {' and '.join(different)}; choose another "
                f"folder, or remove it"
            )
        if (self.out / "shards").is_dir():
            remove_leftovers(self.out / "shards")
        return [shard for shard in range(self.num_shards) if not is_done(self.out, shard)]

    def _plan(self) -> dict:
        settings = {**dataclasses.asdict(self.settings), "stages": list(self.settings.stages)}
        return {
            "settings": settings,
            "items": [list(item) for item in self.items],
            "shard_size": self.shard_size,
        }


class ShardWorker:
    """Does shards of a job, one at a time, with a model of its own.

    Args:
        job: the job.
        device: where the model runs.
        batch_size: images that run at a time.
        threads: images that are decoded at a time.
        allow_missing: go on with tensors that the checkpoint does not have.
    """

    def __init__(
        self,
        job: Job,
        device: str | None = None,
        batch_size: int = 16,
        threads: int = 4,
        allow_missing: bool = False,
    ):
        self.job = job
        self.extractor = Extractor(job.settings, device, batch_size, allow_missing)
        self._reader = Reader(threads)
        self._ahead = ThreadPoolExecutor(1)

    def run(self, shard: int, on_progress: Callable[[int], None] = lambda count: None) -> int:
        """Do one shard.

        Args:
            shard: its number.
            on_progress: told how many more items are done, now and then.

        Returns:
            Number of its items that could not be read.
        """
        rows, features = [], []
        for items, images in self._decoded_ahead(self.job.items_of(shard)):
            readable = [image for image in images if isinstance(image, np.ndarray)]
            extracted = iter(self._extracted(readable))
            for item, image in zip(items, images, strict=True):
                result = next(extracted) if isinstance(image, np.ndarray) else image
                if isinstance(result, UnreadableImageError):
                    rows.append(_row(item, shard, error=result.reason))
                else:
                    rows.append(_row(item, shard, image=image, row=len(features)))
                    features.append(result)
            on_progress(len(items))
        settings = self.job.settings
        write_shard(self.job.out, shard, rows, features, settings.stages, settings.pooled)
        return len(rows) - len(features)

    def _extracted(self, images: Sequence[np.ndarray]) -> list[list[Tensor] | UnreadableImageError]:
        """Features of each image; or, where they need more memory than there is, the error."""
        try:
            return self.extractor(images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if len(images) == 1:
            height, width = images[0].shape[:2]
            return [UnreadableImageError(f"too large for the memory: {width}x{height} pixels")]
        return [self._extracted([image])[0] for image in images]

    def _decoded_ahead(self, items: Sequence[Item]) -> Iterator[tuple[Sequence[Item], list]]:
        """Chunks of items with their images, the next being decoded while one is in use.

        A chunk is a few batches long, so that images of one size find each other.
        """
        size = 4 * self.extractor.batch_size
        chunks = [items[begin : begin + size] for begin in range(0, len(items), size)]
        coming = self._ahead.submit(self._decode, chunks[0])
        for index, chunk in enumerate(chunks):
            images = coming.result()
            if index + 1 < len(chunks):
                coming = self._ahead.submit(self._decode, chunks[index + 1])
            yield chunk, images

    def _decode(self, items: Sequence[Item]) -> list:
        return list(self._reader.read(items))


def _row(item: Item, shard: int, image: np.ndarray | None = None, row: int = -1, error: str = ""):
    height, width = (-1, -1) if image is None else image.shape[:2]
    return {
        "path": as_text(item.path),
        "frame": item.frame,
        "status": "unreadable" if image is None else "ok",
        "error": error,
        "height": height,
        "width": width,
        "shard": shard,
        "row": row,
    }
