"""Features on disk: safetensors for the values, Parquet for what they belong to.

    OUT/plan.json                   settings and items of the job
    OUT/shards/00012.safetensors    features of the items of one shard
    OUT/shards/00012.parquet        a row for each of them; written last, so that it marks a shard
                                    as done
    OUT/index.parquet               all rows, once all shards are done

Each file is whole or not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, stack

from ...atomic_files import write_whole
from ...extras import from_extra

with from_extra("features"):
    import pyarrow as pa
    import pyarrow.parquet as pq

#: Columns of the index. ``row`` is the item's row in pooled tensors, and part of the name of dense
#: ones; it is -1, like height and width, where there are no features, and ``error`` says why.
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("frame", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
    ]
)


def shard_paths(out: Path, shard: int) -> tuple[Path, Path]:
    """The values and the rows of one shard."""
    return out / "shards" / f"{shard:05d}.safetensors", out / "shards" / f"{shard:05d}.parquet"


def write_shard(
    out: Path,
    shard: int,
    rows: Sequence[Mapping],
    features: Sequence[Sequence[Tensor]],
    stages: Sequence[int],
    pooled: bool,
) -> None:
    """Write one shard.

    Args:
        out: folder of the job.
        shard: its number.
        rows: a row of the index for each item, those without features included.
        features: of each item that has some, in order, one tensor a stage.
        stages: which stages these are.
        pooled: whether the features are vectors, which are stacked: ``stage2`` is (items, C). Maps
            differ in size, so each is stored by itself, as ``stage2/ROW``.
    """
    tensors = {}
    for place, stage in enumerate(stages):
        of_stage = [of_item[place] for of_item in features]
        if pooled and of_stage:
            tensors[f"stage{stage}"] = stack(of_stage)
        elif not pooled:
            tensors |= {f"stage{stage}/{row}": value for row, value in enumerate(of_stage)}
    values_path, rows_path = shard_paths(out, shard)
    write_whole(values_path, lambda unfinished: save_file(tensors, unfinished))
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    write_whole(rows_path, lambda unfinished: pq.write_table(table, unfinished))


def is_done(out: Path, shard: int) -> bool:
    """Whether a shard is there, whole."""
    return shard_paths(out, shard)[1].exists()


def write_index(out: Path, shards: int) -> pa.Table:
    """Join the rows of all shards, and return them."""
    tables = [pq.read_table(shard_paths(out, shard)[1]) for shard in range(shards)]
    table = pa.concat_tables(tables)
    write_whole(out / "index.parquet", lambda unfinished: pq.write_table(table, unfinished))
    return table


def read_index(out: str | Path) -> pa.Table:
    """The index of a finished job; ``.to_pandas()`` makes a data frame of it.

    Raises:
        FileNotFoundError: if the job is not finished, or there is none.
    """
    path = Path(out) / "index.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: no job, or not all of it is done yet")
    return pq.read_table(path)


def load_features(out: str | Path, row: Mapping, stage: int) -> Tensor:
    """Features of one item.

    Args:
        out: folder of the job.
        row: the item's row of the index.
        stage: one of the job's stages.

    Returns:
        (C,) or (C, rows, columns).

    Raises:
        ValueError: if the item has no features.
        KeyError: if the stage was not extracted.
    """
    if row["status"] != "ok":
        raise ValueError(f"{row['path']} has no features: {row['error']}")
    path, _ = shard_paths(Path(out), row["shard"])
    name = f"stage{stage}"
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        if name in names:
            return file.get_slice(name)[int(row["row"])]
        if f"{name}/{row['row']}" in names:
            return file.get_tensor(f"{name}/{row['row']}")
    raise KeyError(f"{path} holds no features of stage {stage}")
