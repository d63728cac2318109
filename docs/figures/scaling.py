"""Draw docs/images/scaling.png, two GPUs beside one, from the results; print what more would do.

python docs/figures/scaling.py      (prints the table 'What to expect of more GPUs' in markdown)
"""

import itertools
from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from result_files import DOCS, OURS, PEERS, newest_first, where_and_when

from swin_backbone.atomic_files import write_whole

OUT = DOCS / "images" / "scaling.png"
#: Part of linear that is wanted of two GPUs, of Swin-T by graphs by images a GPU, and by FSDP2.
WANTED = {"16": 0.96, "4": 0.92, "2": 0.85}
WANTED_OF_FSDP2 = 0.9
ARCHES = {"tiny": "Swin-T", "small": "Swin-S", "base": "Swin-B", "large": "Swin-L"}
WAYS = {
    "graphs": "CUDA graphs",
    "ddp": "DDP",
    "fsdp2-graphs": "FSDP2, CUDA graphs",
    "fsdp2": "FSDP2",
    "fsdp2-reshard": "FSDP2, blocks given back",
    "fsdp": "FSDP",
}
#: Bytes a second of a GPU in each direction: over NVLink, and over its network adapter.
LINK, ADAPTER = 300e9, 40e9
#: Bytes of gradients of UPerNet.
GRADIENTS = {
    "Swin-T, float32": 240e6,
    "Swin-T, bfloat16": 120e6,
    "Swin-B, float32": 485e6,
    "Swin-L, float32": 936e6,
}
#: GPUs of a node, and nodes.
MACHINES = {
    "2 GPUs": (2, 1),
    "8 GPUs": (8, 1),
    "2 nodes": (8, 2),
    "4 nodes": (8, 4),
    "8 nodes": (8, 8),
}


def seconds_of_gradients(
    size: float, gpus: int, nodes: int = 1, link: float = LINK, adapter: float = ADAPTER
) -> float:
    """How long gradients travel in a step, by rings in a node and between nodes.

    Args:
        size: of the gradients, bytes.
        gpus: of a node.
        nodes: how many.
        link: bytes a second of a GPU in each direction in a node.
        adapter: bytes a second of a GPU in each direction between nodes.
    """
    inside = 2 * (gpus - 1) / gpus * size / link
    between = 2 * (nodes - 1) / nodes * size / gpus / adapter
    return inside + between


def expected_table(gradients: Mapping[str, float] = GRADIENTS) -> str:
    """Milliseconds of gradients (name: bytes) on each of ``MACHINES``, in markdown."""
    lines = [
        f"| UPerNet | gradients | {' | '.join(MACHINES)} |",
        f"| --- | {' | '.join(['---:'] * (1 + len(MACHINES)))} |",
    ]
    for name, size in gradients.items():
        times = [f"{1e3 * seconds_of_gradients(size, *at):.1f}" for at in MACHINES.values()]
        lines.append(f"| {name} | {size / 1e6:.0f} MB | {' | '.join(times)} |")
    return "\n".join(lines)


def pairs() -> list[tuple[dict, dict]]:
    """Rows of one and of two GPUs of each setting that was measured with both: the last of two, and
    of one that of the same file, or else the last."""
    alone, together = {}, {}
    for rows in reversed(newest_first("scaling-h200")):
        measured = [row for row in rows if not row["error"]]
        beside = {setting(row): row for row in measured if row["processes"] == "1"}
        alone |= beside
        for row in measured:
            if row["processes"] == "2":
                together[setting(row)] = beside.get(setting(row)), row
    both = [(one or alone[key], two) for key, (one, two) in together.items() if one or key in alone]
    if not both:
        raise FileNotFoundError("no setting was measured on one GPU and on two")
    return sorted(both, key=lambda pair: place_of(pair[1]))


def setting(row: dict) -> tuple[str, str, str]:
    return row["arch"], row["batch"], row["strategy"]


def place_of(row: dict) -> tuple:
    """By which rows are sorted: model, way of training, the largest batch first."""
    return list(ARCHES).index(row["arch"]), list(WAYS).index(row["strategy"]), -int(row["batch"])


def draw(both: list[tuple[dict, dict]]) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(10.5, 0.5 * len(both) + 1.3))
    for place, (one, two) in enumerate(both):
        efficiency = float(two["images_per_second"]) / 2 / float(one["images_per_second"])
        graphs = "graphs" in two["strategy"]
        axes.barh(place, 100 * efficiency, 0.62, color=OURS if graphs else PEERS)
        axes.text(1, place, f"{efficiency:.1%}", va="center", color="white", weight="bold")
        times = " to ".join(f"{1e3 * float(row['seconds']):.1f}" for row in (one, two))
        text = f"{times} ms a step, {float(two['images_per_second']):.0f} img/s of two"
        axes.text(max(102, 100 * efficiency + 2), place, text, va="center", fontsize=10)
    marks = [(100 * part, place) for place, (_, two) in enumerate(both) if (part := wanted(two))]
    axes.vlines([x for x, _ in marks], [y - 0.4 for _, y in marks], [y + 0.4 for _, y in marks],
                color="#c0504d", lw=2, label="wanted")  # fmt: skip
    axes.axvline(100, color="black", lw=0.8, ls=":", label="twice one GPU")
    axes.set_yticks(range(len(both)), [name_of(two) for _, two in both], fontsize=10)
    axes.invert_yaxis()
    axes.set(xlim=(0, 215), xticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.02), ncols=2, fontsize=9, frameon=False)
    when = where_and_when(itertools.chain(*both))
    title = f"UPerNet, 512x512: two GPUs, of twice one ({when})"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def wanted(row: dict) -> float | None:
    """Part of linear, of Swin-T by graphs and of larger models by FSDP2."""
    if row["strategy"].startswith("fsdp2"):
        return WANTED_OF_FSDP2
    is_aim = (row["arch"], row["strategy"]) == ("tiny", "graphs")
    return WANTED.get(row["batch"]) if is_aim else None


def name_of(row: dict) -> str:
    return f"{ARCHES[row['arch']]}, {row['batch']} a GPU, {WAYS[row['strategy']]}"


if __name__ == "__main__":
    print(expected_table())
    figure = draw(pairs())
    write_whole(OUT, lambda unfinished: figure.savefig(unfinished, dpi=110))
    print(OUT)
