"""What a benchmark found, as it is kept in JSON."""

from __future__ import annotations

import json
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import torch

from swin_backbone.atomic_files import write_text

from .cases import Case
from .implementations import Implementation
from .roofline import Ceilings, Floor

TIME_LIMIT = "not measured (time limit)"


@dataclass
class Row:
    """One implementation in one case.

    Args:
        implementation: its name.
        execution: eager, compiled, or from a CUDA graph.
        parameters: how many the model has; ``None`` if it could not be built.
        first_call: seconds of the very first call, with everything compiled in it.
        samples: seconds of each timed call.
        peak_bytes: peak memory as if alone; ``None`` where it was not measured.
        reason: why there is no measurement; ``None`` if there is one.
        host_seconds: until a call returns, the device idle before; ``None`` if not measured.
    """

    implementation: str
    execution: str
    parameters: int | None = None
    first_call: float | None = None
    samples: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    reason: str | None = None
    host_seconds: float | None = None

    @property
    def label(self) -> str:
        return f"{self.implementation}, {self.execution}"

    @property
    def seconds(self) -> float | None:
        """Median of the samples."""
        return statistics.median(self.samples) if self.samples and not self.reason else None

    @property
    def spread(self) -> float | None:
        """Half the distance of the quartiles over the median: how noisy the samples are."""
        if self.seconds is None or len(self.samples) < 2:
            return None
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return (high - low) / 2 / self.seconds


@dataclass
class CaseResult:
    """Every implementation in one case, and the least work there."""

    case: Case
    floor: Floor
    rows: list[Row]

    def take(self, rows: Iterable[Row]) -> None:
        """Put new rows in place of those of the same label.

        All rows of a case should come from the same rounds, so it is all or nothing: if the time
        limit left out of the new rows what had been measured before, the old ones stay.
        """
        new = {row.label: row for row in rows}
        lost = [
            row
            for row in self.rows
            if row.seconds and row.label in new and new[row.label].reason == TIME_LIMIT
        ]
        if not lost:
            self.rows = [new.get(row.label, row) for row in self.rows]

    @property
    def baseline(self) -> Row | None:
        """The row that others are compared with: ours as users get it, or the first that ran."""
        ran = [row for row in self.rows if row.seconds]
        ours = [row for row in ran if row.implementation == "ours"]
        return next(iter(ours or ran), None)


@dataclass
class Peer:
    """What is said once about an implementation."""

    name: str
    version: str | None
    note: str

    @classmethod
    def of(cls, implementation: Implementation) -> Peer:
        return cls(implementation.name, implementation.version(), implementation.note)


@dataclass
class Benchmark:
    """A whole run."""

    command: str
    date: str
    device: str
    versions: dict[str, str]
    repeats: int
    peers: list[Peer]
    ceilings: Ceilings
    cases: list[CaseResult] = field(default_factory=list)
    elapsed: float = 0.0

    def save(self, path: Path) -> None:
        """Write JSON, over what was there."""
        write_text(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Benchmark:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        try:
            data = json.loads(path.read_text())
            data["peers"] = [Peer(**peer) for peer in data["peers"]]
            data["ceilings"] = Ceilings(**data["ceilings"])
            data["cases"] = [_case_result(**result) for result in data["cases"]]
            return cls(**data)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no result of this benchmark: {error!r}") from error


def _case_result(case: dict, floor: dict, rows: Iterable[dict]) -> CaseResult:
    case = Case(**{**case, "size": tuple(case["size"])})
    return CaseResult(case, Floor(**floor), [Row(**row) for row in rows])


def describe_device(device: str) -> str:
    """The card, or the processor and its threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{_processor()}, {capability}, threads: {torch.get_num_threads()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environment_versions() -> dict[str, str]:
    """Versions of what every implementation runs on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        import triton

        versions["triton"] = triton.__version__
    return versions


def now() -> str:
    """Date and time, to the minute."""
    return datetime.now().strftime("%Y-%m-%d %H:%M")


def command_line() -> str:
    """What was typed, but for the path of the interpreter."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
