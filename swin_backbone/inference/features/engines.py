"""Where shards are done: in this process, or by the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...extras import from_extra
from .job import Job, ShardWorker


def run_locally(
    job: Job, shards: Sequence[int], on_progress: Callable[[int], None], **options
) -> None:
    """Do shards in this process.

    Args:
        job: the job.
        shards: which of its shards.
        on_progress: told how many more items are done.
        options: of :class:`ShardWorker`.
    """
    worker = ShardWorker(job, **options)
    for shard in shards:
        worker.run(shard, on_progress)


def run_on_ray(
    job: Job,
    shards: Sequence[int],
    on_progress: Callable[[int], None],
    workers: int,
    gpus_per_worker: float,
    **options,
) -> None:
    """Do shards with Ray Data, a model in each actor; ``job.out`` must be a folder that all nodes
    see.

    Joins the cluster that ``RAY_ADDRESS`` names, or starts one on this machine.

    Args:
        job: the job.
        shards: which of its shards.
        on_progress: told how many more items are done.
        workers: number of actors.
        gpus_per_worker: GPUs that each actor takes; 0 to run on CPUs.
        options: of :class:`ShardWorker`.
    """
    with from_extra("ray"):
        import ray
        import ray.data

    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        # A block a shard, so that the actors share them; made here, for no task may wait for a
        # processor that the actors hold.
        dataset = ray.data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
        )
        done = dataset.map(
            _RayWorker,
            fn_constructor_kwargs={"job": job, **options},
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=gpus_per_worker,
        )
        for row in done.iter_rows():
            on_progress(len(job.items_of(row["shard"])))
    finally:
        if started_here:
            ray.shutdown()


class _RayWorker:
    """A shard worker as Ray Data calls it."""

    def __init__(self, **options):
        self._worker = ShardWorker(**options)

    def __call__(self, row: dict) -> dict:
        self._worker.run(row["shard"])
        return row
