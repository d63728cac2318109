"""Counters of kernels: what is asked of Nsight Compute, and what is made of its lines."""

import stat
import sys

import pytest
from benchmarking import counters

from swin_backbone.ops.triton.kernels import all_kernels

#: Time and memory of two launches of one kernel and one of another, and what each waits for.
LAUNCHES = [
    ("linear", "1,000", "2,000,000", "10", "tensor cores"),
    ("linear", "3,000", "6,000,000", "30", "tensor cores"),
    ("norm_forward", "9,000", "1,000", "80.5", "memory"),
]


def lines():
    """As ncu 2025.3 writes them, with what it says in between."""
    names = ["ID", "Kernel Name", counters.TIME, counters.BYTES]
    names += [*counters.SHARES.values(), *counters.STALLS.values()]
    yield "==WARNING== Note: Running with unmodified GPU clocks."
    yield '==PROF== Profiling "linear" - 0: 0%....50%....100% - 9 passes'
    yield ",".join(f'"{name}"' for name in names)
    yield ",".join('""' for _ in names)  # units
    for index, (name, time, memory, share, reason) in enumerate(LAUNCHES):
        waits = ["2.5" if each == reason else "0.5" for each in counters.STALLS]
        values = [str(index), name, time, memory, *[share] * len(counters.SHARES), *waits]
        yield ",".join(f'"{value}"' for value in values)


def test_launches_are_summed_by_their_time():
    norm, linear = counters.summed(lines())
    assert tuple(norm) == tuple(linear) == counters.COLUMNS
    assert norm["kernel"] == "norm_forward", "the longest first"
    assert (linear["launches"], linear["ms"], linear["gb"]) == (2, 0.004, 0.008)
    assert {linear[share] for share in counters.SHARES} == {25.0}  # (1 * 10 + 3 * 30) / 4
    assert {norm[share] for share in counters.SHARES} == {80.5}
    assert (linear["waits_for"], norm["waits_for"]) == ("tensor cores", "memory")


@pytest.fixture
def ncu(tmp_path, monkeypatch):
    """Put a program in the place of ncu, which writes the given lines and leaves with a status."""

    def put(written, status=0):
        (tmp_path / "lines.txt").write_text("\n".join(written))
        program = tmp_path / "ncu"
        program.write_text(
            f"#!{sys.executable}\nimport pathlib, sys\n"
            f"log = pathlib.Path(sys.argv[sys.argv.index('--log-file') + 1])\n"
            f"log.write_text(pathlib.Path({str(tmp_path / 'lines.txt')!r}).read_text())\n"
            f"pathlib.Path({str(tmp_path / 'asked.txt')!r}).write_text('\\n'.join(sys.argv))\n"
            f"sys.exit({status})\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def test_kernels_of_the_package_are_counted(ncu, tmp_path):
    ncu(lines())
    said = []
    rows = counters.count(["program", "argument"], tmp_path / "log.csv", said.append)
    assert [row["kernel"] for row in rows] == ["norm_forward", "linear"]
    assert said[-1] == 1, "launches so far"
    asked = (tmp_path / "asked.txt").read_text().splitlines()
    assert asked[-2:] == ["program", "argument"]
    pattern = asked[asked.index("--kernel-name") + 1]
    assert set(pattern.removeprefix("regex:^(").removesuffix(")$").split("|")) == set(all_kernels())
    assert counters.TIME in asked[asked.index("--metrics") + 1].split(",")


def test_what_goes_wrong_is_said(ncu, tmp_path, monkeypatch):
    ncu([*lines(), '==ERROR== Failed to profile "linear" in process 1'], status=9)
    with pytest.raises(
        ValueError, match=r'status 9 and said \'==ERROR== Failed to profile "linear'
    ):
        counters.count(["program"], tmp_path / "log.csv", print)
    ncu(list(lines())[:4])
    with pytest.raises(ValueError, match="program started none of the package's kernels"):
        counters.count(["program"], tmp_path / "log.csv", print)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="ncu is not in PATH"):
        counters.count(["program"], tmp_path / "log.csv", print)
