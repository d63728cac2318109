"""Where the time of one step goes, by kernel on a GPU and by operator on the CPU."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from swin_backbone import compile_kernels
from swin_backbone.atomic_files import write_text
from swin_backbone.inference.timing import seconds

from .cases import Case, matmul_precision
from .implementations import Implementation
from .kernel_work import floors, flops_of_torch, recorded_work
from .roofline import Ceilings
from .steps import EAGER, Step, make_step

#: Kinds of work and what their kernels or operators have in their names; the first match counts.
GROUPS = {
    "attention": r"attention|attn|flash|fmha|softmax|window",
    "matmul": r"gemm|cutlass|cublas|nvjet|xmma|matmul|addmm|::mm|bmm|linear|mlp|conv",
    "norms": r"norm",
    "copies": (
        r"memcpy|memset|copy|clone|::cat|catarray|::roll|roll_cuda|pad|fill|zero|index|gather|scatter"
    ),
    "elementwise": (
        r"elementwise|gelu|vectorized|::add|::mul|::sub|::div|::sum|::mean|reduce|triton_"
    ),
    "other": r"",
}


@dataclass(frozen=True)
class Entry:
    """One kernel or operator.

    Args:
        name: as the profiler has it, its template arguments cut off.
        group: a key of :data:`GROUPS`.
        seconds: its own time in one step.
        calls: how often it ran in one step.
        floor: the least time that the ceilings allow it in one step; ``None`` where it is unknown.
        bound: what binds it by that.
    """

    name: str
    group: str
    seconds: float
    calls: int
    floor: float | None = None
    bound: str = ""


@dataclass(frozen=True)
class Profile:
    """One step, taken apart.

    Args:
        title: what was run on what.
        wall: median seconds of a step without the profiler.
        busy: seconds of a step in which the device computed.
        entries: kernels or operators, the longest first.
        products_floor: the least time of PyTorch's own products; ``None`` where it is unknown.
    """

    title: str
    wall: float
    busy: float
    entries: list[Entry]
    products_floor: float | None = None

    @property
    def idle(self) -> float:
        """Seconds in which the device waited: launch gaps, and what the host does alone."""
        return max(self.wall - self.busy, 0.0)

    def groups(self) -> dict[str, float]:
        """Seconds of each group that took any."""
        totals = {
            name: sum(entry.seconds for entry in self.entries if entry.group == name)
            for name in GROUPS
        }
        return {name: total for name, total in totals.items() if total}

    def torch_products(self) -> float:
        """Seconds of products by kernels that are not the package's."""
        return sum(e.seconds for e in self.entries if e.group == "matmul" and e.floor is None)


def profile_case(
    implementation: Implementation, case: Case, title: str, ceilings: Ceilings, steps: int = 5
) -> Profile:
    """Run and take apart the eager step of one implementation, with the floor of each kernel."""
    model = implementation.build(case.architecture, case.size).to(case.device)
    with matmul_precision(case.dtype):
        step = make_step(model, case.images(), case, EAGER)
        if implementation.is_ours:
            compile_kernels(model, step)
        for _ in range(3):
            step()
        wall = statistics.median(seconds(step, case.device) for _ in range(steps))
        return with_floors(take_apart(step, case.device, wall, title, steps), step, ceilings)


def with_floors(found: Profile, step: Step, ceilings: Ceilings) -> Profile:
    """``found`` with the floors of the kernels that ``step`` starts and of PyTorch's products."""
    # Shapes cost the host time: not in the profile whose times count.
    options = {"activities": [ProfilerActivity.CPU], "record_shapes": True, "with_flops": True}
    with recorded_work() as works, profile(**options) as profiler:
        step()
    known = floors(works, ceilings)
    entries = [
        replace(entry, floor=known[entry.name].seconds, bound=known[entry.name].bound)
        if entry.name in known else entry for entry in found.entries
    ]  # fmt: skip
    products = flops_of_torch(profiler.events()) / ceilings.product
    return replace(found, entries=entries, products_floor=products)


def take_apart(step: Step, device: str, wall: float, title: str, steps: int) -> Profile:
    """Profile ``steps`` steps; times and calls are those of one."""
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    totals, calls = defaultdict(float), defaultdict(int)
    if on_gpu:
        kernels = [event for event in profiler.events() if is_kernel(event)]
        for event in kernels:
            name = event.name
            totals[name] += event.time_range.elapsed_us() / 1e6
            calls[name] += 1
        busy = union((k.time_range.start, k.time_range.end) for k in kernels) / 1e6 / steps
    else:
        for event in profiler.key_averages():
            totals[event.key] += event.self_cpu_time_total / 1e6
            calls[event.key] += event.count
        busy = wall  # the CPU is the device, and the host's work part of what it computes
    entries = [
        Entry(
            short_name(name) if on_gpu else name,
            group_of(name),
            total / steps,
            round(calls[name] / steps),
        )
        for name, total in totals.items()
        if total > 0
    ]
    entries.sort(key=lambda entry: -entry.seconds)
    return Profile(title, wall, busy, entries)


def is_kernel(event) -> bool:
    """Whether a profiler's event is work of a GPU, and not a name given to a range of it."""
    annotation = getattr(event, "is_user_annotation", False) or event.name.startswith("Profiler")
    return event.device_type == DeviceType.CUDA and not annotation


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what ``spans`` (start, end) cover together; overlaps count once."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def exposed(spans: Iterable[tuple[float, float]], others: Iterable[tuple[float, float]]) -> float:
    """Length of what ``spans`` (start, end) cover together and none of ``others`` does."""
    others = list(others)
    return union([*spans, *others]) - union(others)


def group_of(name: str) -> str:
    """The kind of work that a kernel's or operator's name suggests."""
    return next(group for group, pattern in GROUPS.items() if re.search(pattern, name.lower()))


def short_name(name: str) -> str:
    """A kernel's name without namespaces and arguments, with what its template is for.

    ``void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl(...)...>``
    becomes ``vectorized_elementwise_kernel [GeluCUDAKernelImpl]``.
    """
    head, *rest = re.split(r"[<(]", name.replace("(anonymous namespace)::", ""), maxsplit=1)
    head = re.split(r"::|\s", head)[-1]
    purposes = re.findall(r"\w*(?:Functor|Kernel|kernel)\w*", rest[0]) if rest else []
    purposes = [p for p in purposes if not p.startswith("gpu_kernel_impl") and p != head]
    return f"{head} [{purposes[0]}]" if purposes else head


def as_table(result: Profile, most: int = 40) -> Table:
    """The longest entries and the groups, for the terminal; floors where there are any."""
    has_floors = result.products_floor is not None
    table = Table(title=result.title, title_justify="left")
    table.add_column("kernel or operator")
    names = ("group", "ms", "share", "calls", *(("floor, ms", "x floor", "bound by") * has_floors))
    for name in names:
        table.add_column(name, justify="right")

    def add(name: str, group: str, seconds: float, calls: str = "", floor=None, bound="") -> None:
        cells = [name, group, f"{1e3 * seconds:.3f}", f"{seconds / result.wall:.1%}", calls]
        if floor:
            cells += [f"{1e3 * floor:.3f}", f"{seconds / floor:.1f}", bound]
        table.add_row(*cells)

    for entry in result.entries[:most]:
        add(entry.name, entry.group, entry.seconds, str(entry.calls), entry.floor, entry.bound)
    table.add_section()
    for name, total in result.groups().items():
        add(f"all {name}", "", total)
    if has_floors:
        add("PyTorch's own products", "", result.torch_products(), "",
            result.products_floor, "products")  # fmt: skip
    known = [entry for entry in result.entries if entry.floor]
    if known:
        total, floor = (sum(getattr(e, name) for e in known) for name in ("seconds", "floor"))
        add("all kernels with a floor", "", total, "", floor)
    add("device busy", "", result.busy)
    add("step, without the profiler", "", result.wall)
    return table


def save_profiles(profiles: list[Profile], path: Path) -> None:
    """Write JSON."""
    content = {"profiles": [asdict(profile) for profile in profiles]}
    write_text(path, json.dumps(content, indent=1))


def load_profiles(path: Path) -> list[Profile]:
    """Read what :func:`save_profiles` wrote.

    Raises:
        ValueError: if the file holds something else.
    """
    try:
        return [
            Profile(**{**data, "entries": [Entry(**entry) for entry in data["entries"]]})
            for data in json.loads(path.read_text())["profiles"]
        ]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no profiles of this benchmark: {error!r}") from error
