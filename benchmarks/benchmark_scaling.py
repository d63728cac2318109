"""Measure how training scales with the number of GPUs of one machine (or of processes on a CPU).

    python benchmarks/benchmark_scaling.py --out OUT [--processes 1 2 4 8] [--arch tiny base large]
        [--batch 2 4 16] [--strategy ddp graphs fsdp fsdp2 fsdp2-reshard fsdp2-graphs] [--size 512]
        [--stock] [--norm SyncBN] [--bucket-mb 25] [--unit-mb 25] [--gradients bfloat16] [--alone]
        [--profile OUT/overlap.csv]

Swin + UPerNet, accelerated (or with ``--stock`` as mmseg builds it), trains on random images that
are on the GPU already, in bfloat16 (float32 on the CPU), everything else as configured: AdamW,
SyncBN in the heads (which ``--norm BN`` makes each process's own, to see what it costs).
``graphs`` is DDP whose steps are replayed as CUDA graphs; ``fsdp2`` is ``fully_shard``, on GPUs
with blocks that travel in bfloat16, and gradients in float32 or what ``--gradients`` says;
``fsdp2-reshard`` gives blocks back in between, to gather them again for the backward pass;
``fsdp2-graphs`` gathers the backbone as one, and replays it as CUDA graphs. For each
setting: images a second of all processes, efficiency (images a second a process, against one
process), the host's own time in a step, peak memory of a process, and communication: the time of
NCCL's kernels (gloo's calls) in a step, whether computation hides it or not. Prints a row of CSV
for each setting as soon as it has been measured, and writes ``OUT/scaling.csv``, ``.json``, ``.md``
and ``.png``. ``--profile`` writes a row each of how long NCCL's kernels run in a step (their waits
for other processes counted), and how much of that no computing kernel of the same GPU hides.

With ``--alone`` one process does the part of one of so many, on one GPU, and its messages go
nowhere: what remains is what they do not take, the work of the host and the GPU to send parts,
gather, sum and step on them. So 8 processes can be tried with one GPU. What the model computes
means nothing then.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gc
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from benchmarking.profiling import exposed, is_kernel, union
from benchmarking.results import now
from mmengine.config import Config
from mmengine.dist import init_local_group
from mmengine.registry import init_default_scope
from rich.console import Console
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.nn.parallel import DistributedDataParallel

from swin_backbone import (  # first: it lets mmseg import without compiled ops
    accelerate,
    graph_backbone,
)
from swin_backbone.atomic_files import write_text, write_whole
from swin_backbone.cli.argument_types import not_negative, port, positive
from swin_backbone.cli.argument_types import number as number_type
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.csv_text import as_csv
from swin_backbone.cli.launching import leave_processes
from swin_backbone.model.arguments import ARCHITECTURES
from swin_backbone.model.sharding import UNIT_MB, shard, step_on_own_parts
from swin_backbone.openmmlab.compile_ahead_hook import compile_together, without_reducer
from swin_backbone.openmmlab.cuda_graph_hook import CudaGraphHook
from swin_backbone.openmmlab.gradient_compression import COMPRESSIONS, CompressGradientsHook
from swin_backbone.openmmlab.sharding import wrap_swin_blocks

# isort: split
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

ROOT = Path(__file__).resolve().parents[1]
#: Channels, depths and heads; 'nano' is for trying this script.
SIZES = {**ARCHITECTURES, "nano": (8, (1, 1, 1, 1), (1, 1, 2, 2))}
CUDA = torch.cuda.is_available()
STRATEGIES = ["ddp", "graphs", "fsdp", "fsdp2", "fsdp2-reshard", "fsdp2-graphs"]
#: Of these, those that need a GPU.
BY_GRAPHS = {"graphs", "fsdp2-graphs"}
#: How a strategy's lines are drawn.
LINES = dict(zip(STRATEGIES, ("-", ":", "--", "-.", (0, (1, 4)), (0, (4, 1))), strict=True))
#: Columns of the table that grows as settings are measured.
COLUMNS = ["date", "torch", "arch", "batch", "strategy", "processes", "images_per_second"]
COLUMNS += ["seconds", "host_seconds", "communication", "peak_memory_mib", "device", "error"]
#: Of the file that ``--profile`` writes: times of a step, and the part of it that nothing hides.
PROFILE_COLUMNS = ["arch", "batch", "strategy", "processes", "step_ms", "nccl_ms", "exposed_ms"]
PROFILE_COLUMNS += ["exposed_share", "device", "error"]
#: Steps that are timed together: the host may run ahead of the GPU, as it does in a training.
IN_A_ROW = 4
console = Console(stderr=True, width=160)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--processes", type=positive, nargs="+", help="default: 1, 2, 4 ... all GPUs"
    )
    parser.add_argument("--arch", nargs="+", choices=SIZES, default=["tiny", "base", "large"])
    parser.add_argument(
        "--batch", type=positive, nargs="+", default=[2, 4, 16], help="images a process"
    )
    parser.add_argument(
        "--strategy",
        nargs="+",
        choices=STRATEGIES,
        default=[name for name in STRATEGIES if CUDA or name not in BY_GRAPHS],
    )
    parser.add_argument("--stock", action="store_true", help="mmseg's losses and heads")
    parser.add_argument(
        "--bucket-mb", type=positive, default=25, help="MiB of gradients averaged together"
    )
    parser.add_argument(
        "--gradients", choices=list(COMPRESSIONS), help="in which dtype they travel; default: own"
    )
    parser.add_argument(
        "--unit-mb", type=positive, default=UNIT_MB, help="of blocks that FSDP2 gathers together"
    )
    parser.add_argument("--size", type=positive, default=512, help="side of an image, pixels")
    parser.add_argument("--norm", choices=["SyncBN", "BN"], default="SyncBN", help="of the heads")
    parser.add_argument("--steps", type=positive, default=30, help="timed steps of each setting")
    parser.add_argument("--warm-up", type=not_negative, default=10, help="steps before them")
    parser.add_argument(
        "--timeout", type=number_type(0), default=1800, help="seconds a number of processes"
    )
    parser.add_argument(
        "--profile", type=Path, metavar="CSV", help="write how much of NCCL's time nothing hides"
    )
    parser.add_argument(
        "--alone", action="store_true", help="one of the processes, whose messages go nowhere"
    )
    parser.add_argument("--port", type=port, default=29500)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(argv)
    if arguments.worker is not None:
        work(arguments)
        return 0
    gpus = torch.cuda.device_count() or 1
    numbers = arguments.processes or [2**i for i in range(gpus.bit_length()) if 2**i <= gpus]
    by_graphs = BY_GRAPHS.intersection(arguments.strategy)
    if not CUDA and by_graphs:
        raise ValueError(f"--strategy {min(by_graphs)} needs a GPU")
    if not CUDA and arguments.profile:
        raise ValueError(
            "--profile needs a GPU: on a CPU gloo's calls take the cores from what computes, "
            "so that nothing hides them"
        )
    if arguments.alone and arguments.gradients and "ddp" in arguments.strategy:
        raise ValueError("--gradients of DDP are sent, which --alone does not do: leave out one")
    if CUDA and max(numbers) > gpus and not arguments.alone:
        raise ValueError(f"--processes {max(numbers)}: this machine has {gpus} GPUs")
    arguments.out.mkdir(parents=True, exist_ok=True)
    add_line(arguments.out / "scaling.csv", COLUMNS, "w")
    rows, failed = [], False
    for number in sorted(numbers):
        found, code = launch(number, arguments, argv)
        rows += found
        failed |= code != 0
        if not found:
            console.print(f"[red]{number} processes: no result, exit status {code}[/red]")
        if arguments.profile:
            write_text(arguments.profile, profile_lines(rows))
    add_efficiency(rows)
    report(rows, arguments, argv)
    return 1 if failed or not rows else 0


def launch(
    number: int, arguments: argparse.Namespace, argv: Sequence[str]
) -> tuple[list[dict], int]:
    """Run all settings in ``number`` processes; the results that were written, and the status."""
    path = arguments.out / f"processes_{number}.jsonl"
    path.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nproc_per_node={1 if arguments.alone else number}", "--master_addr=127.0.0.1"),
        *(f"--master_port={arguments.port}", __file__),
        *argv,
        *("--processes", number, "--worker", path),
    ]
    console.print(f"one of {number} processes" if arguments.alone else f"{number} processes")
    try:
        code = subprocess.run(list(map(str, command)), timeout=arguments.timeout).returncode
    except subprocess.TimeoutExpired:
        code = 124
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines], code


def work(arguments: argparse.Namespace) -> None:
    """One process: measure every setting, and let the first process write it down."""
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if CUDA else torch.device("cpu")
    if CUDA:
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    if arguments.alone:
        pretend_processes(arguments.processes[0])
    else:
        dist.init_process_group("nccl" if CUDA else "gloo")
    init_local_group(int(os.environ["GROUP_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    init_default_scope("mmseg")
    settings = itertools.product(arguments.arch, arguments.batch, arguments.strategy)
    for arch, batch, strategy in settings:
        try:
            row = measure(arch, batch, strategy, device, arguments)
        except torch.OutOfMemoryError:
            row = {"arch": arch, "batch": batch, "strategy": strategy, "error": "out of memory"}
        every: list = [None] * dist.get_world_size()
        dist.all_gather_object(every, row)
        if dist.get_rank() == 0:
            row = {"date": now(), "torch": torch.__version__, **together(every)}
            with arguments.worker.open("a") as file:
                file.write(json.dumps(row) + "\n")
            add_line(arguments.out / "scaling.csv", [row.get(name, "") for name in COLUMNS])
    leave_processes()


def pretend_processes(number: int) -> None:
    """Make this process the first of ``number``, of which there are no others: a collective gives
    back what it was given, in all parts.

    Raises:
        ValueError: if this PyTorch has no such processes; 2.11 and 2.14 do.
    """
    try:  # the backend that PyTorch tests its own collectives with; its module registers it
        from torch.testing._internal.distributed import fake_pg
    except ImportError as error:
        raise ValueError(f"--alone needs another PyTorch than {torch.__version__}") from error
    dist.init_process_group("fake", rank=0, world_size=number, store=fake_pg.FakeStore())


def add_line(path: Path, values: Sequence, mode: str = "a") -> None:
    """A line of CSV, into a file and for who watches."""
    values = [f"{value:.6g}" if isinstance(value, float) else value for value in values]
    with path.open(mode, newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(values)
    csv.writer(sys.stdout, lineterminator="\n").writerow(values)
    sys.stdout.flush()


def together(every: list[dict]) -> dict:
    """The slowest process sets the pace, and the fullest the memory."""
    broken = next((row for row in every if "error" in row), None)
    row = dict(broken or max(every, key=lambda row: row["seconds"]))
    row["processes"] = len(every)
    if broken is None:
        row["images_per_second"] = len(every) * row["batch"] / row["seconds"]
        row["peak_memory_mib"] = max(other["peak_memory_mib"] for other in every)
    return row


def measure(arch, batch, strategy, device, arguments) -> dict:
    """Time the training steps of one setting in this process."""
    gc.collect()  # models refer to themselves, the more when they are sharded
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = wrap(build(arch, arguments), strategy, device, arguments)
    inputs, samples = random_batch(batch, arguments.size, device)

    def losses_of(model: nn.Module) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=CUDA):
            losses = model(inputs, samples, mode="loss")
        return sum(value.mean() for name, value in losses.items() if "loss" in name)

    if not arguments.stock:
        accelerate(model)  # on the device, as in a run
    inner = without_reducer(model)
    compile_together(inner, lambda: losses_of(inner).backward())
    runner = SimpleNamespace(model=model)
    hook = CudaGraphHook(bucket_mb=arguments.bucket_mb, predictions=False)
    if strategy == "graphs":
        hook.before_train(runner)
    of_backbone = graph_backbone(model.backbone) if strategy == "fsdp2-graphs" else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-5, weight_decay=0.01, fused=CUDA)
    if strategy.startswith("fsdp2"):
        step_on_own_parts(optimizer)

    def step() -> None:
        loss = losses_of(model)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(arguments.warm_up):
        step()
    graphs = of_backbone or hook.graphs
    if strategy in BY_GRAPHS and (graphs is None or graphs.reason is not None):
        reason = "no graphs: see the log" if graphs is None else graphs.reason
        return {"arch": arch, "batch": batch, "strategy": strategy, "error": reason}
    times = [timed(step) for _ in range(-(-arguments.steps // IN_A_ROW))]
    median, host = (statistics.median(kind) for kind in zip(*times, strict=True))
    row = {
        "arch": arch,
        "batch": batch,
        "strategy": strategy,
        "seconds": median,
        "host_seconds": host,
        **communication(step, median),
        "peak_memory_mib": peak_memory_mib(),
        "device": (torch.cuda.get_device_name() if CUDA else "CPU")
        + (", alone" if arguments.alone else ""),
    }
    hook.after_train(runner)
    if of_backbone is not None:
        of_backbone.revert()
    return row


def build(arch: str, arguments: argparse.Namespace) -> nn.Module:
    """UPerNet on a Swin of this size."""
    cfg = Config.fromfile(ROOT / "configs" / "_base_" / "models" / "upernet_swin.py").model
    dims, depths, heads = SIZES[arch]
    cfg.backbone.pop("arch")
    cfg.backbone.update(embed_dims=dims, depths=depths, num_heads=heads)
    channels = [dims * 2**stage for stage in range(4)]
    cfg.decode_head.in_channels = channels
    cfg.auxiliary_head.in_channels = channels[2]
    if arch == "nano":
        cfg.decode_head.channels = cfg.auxiliary_head.channels = 16
    model = MODELS.build(cfg)
    if not CUDA or arguments.norm != "SyncBN":
        model = revert_sync_batchnorm(model)
    return model


def wrap(
    model: nn.Module, strategy: str, device: torch.device, arguments: argparse.Namespace
) -> nn.Module:
    """The model, spread over the processes, on this process's device."""
    if strategy.startswith("fsdp2"):
        types = torch.bfloat16, getattr(torch, arguments.gradients or "float32")
        return shard(
            model.to(device),
            device.type,
            None if strategy == "fsdp2-graphs" else arguments.unit_mb,
            *(types if CUDA else ()),
            reshard_after_forward=strategy == "fsdp2-reshard",
        )
    if strategy != "fsdp":
        model = DistributedDataParallel(
            model.to(device),
            device_ids=[device] if CUDA else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            bucket_cap_mb=arguments.bucket_mb,
        )
        if arguments.alone:
            model.register_comm_hook(None, keep_gradients)
        elif arguments.gradients is not None:
            CompressGradientsHook(arguments.gradients).before_train(SimpleNamespace(model=model))
        return model
    precision = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    return FullyShardedDataParallel(
        model,
        auto_wrap_policy=functools.partial(wrap_swin_blocks),
        use_orig_params=True,
        device_id=device,
        mixed_precision=precision if CUDA else None,
    )


def keep_gradients(_, bucket):  # whose types DDP does not read from text
    """A bucket's gradients as their own sum: what pretended processes send has no result that
    DDP's own way could wait for."""
    found = torch.futures.Future()
    found.set_result(bucket.buffer().div_(dist.get_world_size()))
    return found


def random_batch(batch: int, size: int, device: torch.device):
    """Normalised images, and data samples with labels of 150 classes."""
    inputs = torch.randn(batch, 3, size, size, device=device)
    samples = []
    for _ in range(batch):
        sample = SegDataSample()
        labels = torch.randint(0, 150, (1, size, size), device=device)
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return inputs, samples


def timed(step) -> tuple[float, float]:
    """Seconds of a step, of several in a row, the processes starting together; and what the host
    needed of them before it waited for the GPU."""
    dist.barrier()
    synchronize()
    began = time.perf_counter()
    for _ in range(IN_A_ROW):
        step()
    started = time.perf_counter()
    synchronize()
    return (time.perf_counter() - began) / IN_A_ROW, (started - began) / IN_A_ROW


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def communication(step, seconds: float, steps: int = 3) -> dict:
    """The part of a step of ``seconds`` that kernels of NCCL, or calls of gloo, take; on a GPU
    also how long the former run (``nccl_ms``), and run alone (``exposed_ms``)."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if CUDA:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(steps):
            step()
        synchronize()
    if not CUDA:
        events = profile.key_averages()
        total = sum(e.cpu_time_total for e in events if e.key.startswith("gloo:"))
        return {"communication": total / 1e6 / steps / seconds}
    kernels = [(e.name, (e.time_range.start, e.time_range.end))
               for e in profile.events() if is_kernel(e)]  # fmt: skip
    total = sum(end - start for name, (start, end) in kernels if is_nccl(name))
    found = {"communication": total / 1e6 / steps / seconds}
    if kernels:  # else the profiler saw nothing of the GPU
        times = (1e-3 * microseconds / steps for microseconds in overlap(kernels))
        found.update(zip(("nccl_ms", "exposed_ms"), times, strict=True))
    return found


def overlap(kernels: Sequence[tuple[str, tuple[float, float]]]) -> tuple[float, float]:
    """How long any of NCCL's kernels runs, and how long it does while nothing computes.

    Args:
        kernels: name, and start and end, of all work of one GPU; copies do not count as computing.
    """
    travels = [span for name, span in kernels if is_nccl(name)]
    computes = [span for name, span in kernels if not is_nccl(name) and not is_copy(name)]
    return union(travels), exposed(travels, computes)


def is_nccl(name: str) -> bool:
    return name.startswith("ncclDevKernel")


def is_copy(name: str) -> bool:
    """Copies, fills, and what older profilers say of a collective besides its kernel."""
    return name.startswith(("Memcpy", "Memset", "nccl:"))


def peak_memory_mib() -> float:
    """Of this process: on a GPU what PyTorch allocated there, else what is resident."""
    if CUDA:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def add_efficiency(rows: list[dict]) -> None:
    """Images a second a process, as a fraction of those of the fewest processes, which are 1."""
    first: dict = {}
    for row in rows:
        if "error" in row:
            continue
        each = row["images_per_second"] / row["processes"]
        base = first.setdefault((row["arch"], row["batch"], row["strategy"]), (row, each))
        if base[0]["processes"] == 1:
            row["efficiency"] = each / base[1]


def profile_lines(rows: list[dict]) -> str:
    """CSV of ``--profile``; a setting of which the profiler saw nothing has a reason."""
    lines = []
    for row in rows:
        line = dict(row)
        if "nccl_ms" in row:
            line["step_ms"] = 1e3 * row["seconds"]
            line["exposed_share"] = row["exposed_ms"] / line["step_ms"]
        elif "error" not in row:
            line["error"] = "the profiler saw no kernels"
        line = {name: line[name] for name in PROFILE_COLUMNS if name in line}
        lines.append({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in line.items()})
    return as_csv(lines, PROFILE_COLUMNS)


def report(rows: list[dict], arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    """Write JSON, Markdown and a plot; print the table."""
    about = {
        "command": " ".join(["python", "benchmarks/benchmark_scaling.py", *argv]),
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "size": arguments.size,
    }
    write_text(arguments.out / "scaling.json", json.dumps({**about, "rows": rows}, indent=1))
    table = as_markdown(rows)
    write_text(arguments.out / "scaling.md", table + "\n")
    print(table)
    draw([row for row in rows if "error" not in row], arguments.out / "scaling.png")


def as_markdown(rows: list[dict]) -> str:
    """One line a setting and number of processes."""
    lines = [
        "| Swin | batch a process | strategy | processes | img/s | efficiency | step, ms "
        "| host, ms | peak MiB | communication |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    order = sorted(rows, key=lambda r: (list(SIZES).index(r["arch"]), r["batch"], r["strategy"]))
    for row in order:
        start = f"| {row['arch']} | {row['batch']} | {row['strategy']} | {row['processes']} "
        if "error" in row:
            lines.append(f"{start}| {row['error']} | | | | | |")
            continue
        efficiency = f"{row['efficiency']:.1%}" if "efficiency" in row else "-"
        lines.append(
            f"{start}| {row['images_per_second']:.1f} | {efficiency} "
            f"| {1e3 * row['seconds']:.1f} | {1e3 * row['host_seconds']:.1f} "
            f"| {row['peak_memory_mib']:.0f} | {row['communication']:.1%} |"
        )
    return "\n".join(lines)


def draw(rows: list[dict], path: Path) -> None:
    """Efficiency over the number of processes, a line a setting."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.5))
    settings = sorted({(row["arch"], row["batch"], row["strategy"]) for row in rows})
    colours = {arch: f"C{index}" for index, arch in enumerate(SIZES)}
    batches = sorted({row["batch"] for row in rows})
    for arch, batch, strategy in settings:
        points = [
            (row["processes"], 100 * row["efficiency"])
            for row in rows
            if (row["arch"], row["batch"], row["strategy"]) == (arch, batch, strategy)
            and "efficiency" in row
        ]
        axes.plot(
            *zip(*points, strict=True) if points else ([], []),
            color=colours[arch],
            linestyle=LINES[strategy],
            marker="os^v"[batches.index(batch) % 4],
            label=f"{arch}, batch {batch}, {strategy.upper()}",
        )
    axes.set(xlabel="processes", ylabel="efficiency, %", xscale="log")
    axes.set_xticks(numbers := sorted({row["processes"] for row in rows}), map(str, numbers))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=110))


if __name__ == "__main__":
    sys.exit(main())
