"""The benchmark: what it compares, how it takes turns, and that nothing is dropped silently."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from benchmarking import comparison, profiling, steps, tables
from benchmarking.cases import ALL, DTYPES, MODES, Architecture, Case, named_cases
from benchmarking.csv_rows import COLUMNS, as_lines
from benchmarking.implementations import (
    DEFAULT_IMPLEMENTATIONS,
    IMPLEMENTATIONS,
    Implementation,
)
from benchmarking.results import TIME_LIMIT, Benchmark, CaseResult, Peer, Row
from benchmarking.roofline import Ceilings, Floor, count_floor, measure_ceilings
from helpers.tools import call_tool
from rich.console import Console
from torch import nn

from swin_backbone.inference import timing

SMALL = Case("tiny", (32, 64), 2, "fp32", "forward", "cpu")
CEILINGS = Ceilings("fp32", copy=1e9, product=1e12, copy_bytes=2**20, product_size=64)


def with_mode(mode, dtype="fp32"):
    return Case("tiny", (32, 64), 2, dtype, mode, "cpu")


def options(**changes):
    defaults = {
        "repeats": 3,
        "with_compiled": False,
        "cpu_memory": False,
        "deadline": timing.Deadline(),
        "say": lambda line: None,
    }
    return comparison.Options(**{**defaults, **changes})


class Maps(nn.Module):
    """Right shapes at next to no cost."""

    def __init__(self, shapes=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.shapes = shapes or SMALL.map_shapes()

    def forward(self, x):
        return [self.weight * torch.ones(shape) for shape in self.shapes]


def fake(name, build=None, package="somebody"):
    return Implementation(name, package, build or (lambda arch, size: Maps()))


def run(implementations, cases=(SMALL,), **changes):
    results = comparison.plan(cases, implementations, changes.get("with_compiled", False))
    for _ in comparison.measure_all(results, implementations, options(**changes)):
        pass
    return results


#: Versions and windows of what ``--cases all`` measures.
MODELS = sorted({(c.version, c.window) for name in ALL for c in named_cases(name, "fp32", "cpu")})


LACKING = [(name, "v2") for name in ("mmseg", "mmdet", "timm-fused")]
EVERYONE = [
    (name, *model)
    for name in DEFAULT_IMPLEMENTATIONS
    for model in MODELS
    if (name, model[0]) not in LACKING
]


def build(name, version="v1", window=7, size=SMALL.size):
    """A small model."""
    implementation = IMPLEMENTATIONS[name]
    if implementation.version() is None:
        pytest.skip(f"{implementation.package} is not installed")
    return implementation.build(Architecture(8, (1,) * 4, (1,) * 4, window, version), size)


@pytest.mark.parametrize(
    ("name", "version", "window", "mode"),
    [*((*one, "forward") for one in EVERYONE)]
    + [(*one, "train") for one in EVERYONE if one[1:] in (("v1", 7), ("v2", 8))],
)
def test_implementations_return_the_same_maps_from_the_same_weights(name, version, window, mode):
    """Parameters may differ by norms alone: of the maps (missing), of the last map (one more); and
    by a bias of V2's keys, of which softmax takes no notice."""
    model, ours = (build(one, version, window) for one in (name, "ours"))
    case = with_mode(mode)
    maps = steps.make_step(model, case.images(), case, steps.EAGER)()
    expected = [(b, c // 12, h, w) for b, c, h, w in case.map_shapes()]  # 8 of 96 channels
    assert [tuple(m.shape) for m in maps] == expected
    more = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in ours.parameters())
    keys = sum(8 * 2**stage for stage in range(4))
    without_norms = dict.fromkeys(("timm", "timm-fused", "torchvision"), -2 * keys)
    differences = {
        "v1": {**without_norms, "transformers": 2 * 64},
        "v2": {**without_norms, "transformers": -2 * keys, "torchvision": keys - 2 * keys},
    }
    assert more == differences[version].get(name, 0)


@pytest.mark.parametrize(("name", "version", "window"), EVERYONE)
def test_windows_are_those_of_the_case(name, version, window):
    model = build(name, version, window, (32 * window, 32 * window))
    found = [module.window_size for module in model.modules() if hasattr(module, "window_size")]
    assert {side for one in found for side in ([one] if isinstance(one, int) else one)} == {window}


@pytest.mark.parametrize(("name", "version"), LACKING)
def test_who_lacks_a_version_says_so(name, version):
    with pytest.raises(ValueError, match=r"has no (fused attention for )?Swin V2"):
        build(name, version, 8)


def test_names_of_cases():
    forward, train = named_cases("v2-base-w12", "bf16", "cuda")
    assert forward == Case("base", (512, 512), 32, "bf16", "forward", "cuda", 12, "v2")
    assert train.title == "V2-B, window 12, 512x512, batch 32, bf16, train"
    (one,) = named_cases("v1-tiny-w7-b4-800x1344-latency", "fp32", "cpu")
    assert one == Case("tiny", (800, 1344), 4, "fp32", "latency", "cpu")


@pytest.mark.parametrize(
    "name", ["tiny-w7", "v3-tiny-w7", "v1-tiny", "v1-tiny-w0", "v1-tiny-w7-512", "v1-huge-w7",
             "v1-tiny-w7-b0", "v1-tiny-w7-train-b2", "v1-tiny-w7-predict"],
)  # fmt: skip
def test_other_names_of_cases_are_refused(name):
    with pytest.raises(ValueError, match=f"must be such as v1-tiny-w7.*got '{name}'"):
        named_cases(name, "fp32", "cpu")


@pytest.mark.parametrize("fused", [False, True])
def test_timm_runs_the_attention_that_its_name_says(fused):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    implementation = IMPLEMENTATIONS["timm-fused" if fused else "timm"]
    model = implementation.build(Architecture(8, (1,) * 4, (1,) * 4), SMALL.size)
    attention = timm.models.swin_transformer.WindowAttention
    found = [module.fused_attn for module in model.modules() if isinstance(module, attention)]
    assert found == [fused] * 4


def test_graphs_that_do_not_replay_are_a_row_with_the_reason():
    """On a CPU there are none, and what runs without them must not be called by their name."""
    (result,) = run([IMPLEMENTATIONS["ours:graphs"]])
    (row,) = result.rows
    assert row.seconds is None
    assert "graphs are CUDA's" in row.reason


def test_the_exported_file_is_measured_beside():
    """It gives the maps of the backbone that it is of, and says what it cannot do."""
    pytest.importorskip("onnxruntime")
    model = build("ours:onnxruntime")
    images = SMALL.images()
    for found, expected in zip(model.eval()(images), model.backbone(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32, other sums
    with pytest.raises(ValueError, match="predictions in float32 on a CPU"):
        model.train()(images)
    with pytest.raises(ValueError, match="predictions"), torch.autocast("cpu", torch.bfloat16):
        model.eval()(images)


def test_training_step_computes_gradients_anew():
    model = Maps()
    step = steps.make_step(model, SMALL.images(), with_mode("train"), steps.EAGER)
    step()
    first = model.weight.grad.clone()
    step()
    assert model.training
    assert torch.equal(model.weight.grad, first)
    assert first.item() == pytest.approx(4)  # the mean of each of four maps of one weight


@pytest.mark.parametrize("mode", ["forward", "latency"])
def test_forward_keeps_no_graph_and_runs_in_evaluation_mode(mode):
    model = Maps()
    maps = steps.make_step(model, SMALL.images(), with_mode(mode), steps.EAGER)()
    assert not model.training
    assert not any(m.requires_grad for m in maps)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_half_precision_runs_under_autocast(dtype):
    layer = nn.Linear(3, 3)
    with Case("tiny", (32, 32), 1, dtype, "forward", "cpu").autocast():
        assert layer(torch.randn(1, 3)).dtype == DTYPES[dtype]


@pytest.mark.parametrize(
    ("case", "name", "with_compiled", "expected"),
    [
        (("forward", "cuda"), "ours", False, ["eager"]),
        (("latency", "cuda"), "ours", False, ["eager", "graph"]),
        (("latency", "cuda"), "mmseg", False, ["eager"]),
        (("latency", "cuda"), "mmseg", True, ["eager", "compiled+graph"]),
        (("train", "cuda"), "timm", True, ["eager", "compiled"]),
        (("latency", "cpu"), "ours", True, ["eager", "compiled"]),
        (("latency", "cuda"), "ours:graphs", True, ["eager"]),
        (("forward", "cpu"), "ours:onnxruntime", True, ["eager"]),
    ],
)
def test_executions(case, name, with_compiled, expected):
    mode, device = case
    case = Case("tiny", (32, 32), 1, "fp32", mode, device)
    assert steps.executions(case, IMPLEMENTATIONS[name], with_compiled) == expected


class Turn:
    """Notes who ran when."""

    def __init__(self, name, log, fails_at=None):
        self.name, self.log, self.fails_at = name, log, fails_at
        self.calls, self.in_a_row = 2, True
        self.samples, self.error, self.releases = [], None, 0

    def step(self):
        self.log.append(self.name)
        if self.log.count(self.name) == self.fails_at:
            raise RuntimeError("no more")

    def fail(self, error):
        self.error = error

    def release(self):
        self.releases += 1


def test_rounds_give_everyone_a_turn():
    log = []
    turns = [Turn("a", log), Turn("b", log)]
    assert list(timing.interleave(turns, "cpu", 2, timing.Deadline())) == [1, 2]
    assert log == ["a", "a", "b", "b"] * 2
    assert [len(turn.samples) for turn in turns] == [4, 4]
    assert [turn.releases for turn in turns] == [2, 2]


def test_who_fails_in_a_round_has_no_more_turns():
    log = []
    turns = [Turn("a", log, fails_at=3), Turn("b", log)]
    list(timing.interleave(turns, "cpu", 3, timing.Deadline()))
    assert str(turns[0].error) == "no more"
    assert log.count("a") == 3
    assert log.count("b") == 6


def test_deadline_ends_rounds_after_the_least_number():
    turn = Turn("a", [])
    rounds = list(timing.interleave([turn], "cpu", 50, timing.Deadline(limit=0)))
    assert rounds == [1, 2, 3]


@pytest.mark.parametrize(("step_seconds", "calls"), [(1.0, 1), (0.005, 4), (1e-5, 20), (0, 20)])
def test_short_steps_are_repeated_within_a_turn(step_seconds, calls):
    assert timing.calls_in_a_turn(step_seconds) == calls


def raise_(error):
    raise error


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda arch, size: raise_(ImportError("No module named 'x'")), "not installed: .*'x'"),
        (lambda arch, size: raise_(ValueError(f"cannot do {size}")), "cannot do .32, 64."),
        (lambda arch, size: raise_(torch.cuda.OutOfMemoryError("a\nb")), "^out of memory$"),
        (lambda arch, size: Maps([(2, 96, 8, 16)]), "returns 1 maps instead of 4"),
        (lambda arch, size: Maps([(2, 1, 8, 16)] * 4), r"map 0 has shape \(2, 1, 8, 16\)"),
    ],
)
def test_what_cannot_run_is_a_row_with_the_reason(build, reason):
    (result,) = run([fake("broken", build), fake("fine")])
    broken, fine = result.rows
    assert re.search(reason, broken.reason)
    assert broken.seconds is None
    assert fine.reason is None
    assert fine.seconds > 0
    assert fine.host_seconds > 0
    assert broken.host_seconds is None
    assert fine.parameters == 1
    assert "broken, eager" in tables.as_markdown(benchmark([result]))


@pytest.mark.slow
def test_compiled_rows_come_from_the_same_rounds():
    cases = [SMALL, with_mode("train")]
    for result in run([fake("a"), fake("b")], cases, with_compiled=True):
        labels = ["a, eager", "a, compiled", "b, eager", "b, compiled"]
        assert [row.label for row in result.rows] == labels
        assert [row.reason for row in result.rows] == [None] * 4
        assert result.rows[1].first_call > result.rows[0].first_call


def test_everything_is_named_when_the_time_is_over():
    cases = [SMALL, with_mode("train")]
    results = run([fake("a"), fake("b")], cases, deadline=timing.Deadline(limit=0))
    assert [row.reason for result in results for row in result.rows] == [TIME_LIMIT] * 4


def test_time_limit_keeps_what_was_measured_before():
    """Time is over while the second of two is being built."""
    deadline = timing.Deadline(limit=1e6)

    def late(arch, size):
        deadline.limit = 0
        return Maps()

    implementations = [fake("a"), fake("late", late), fake("b")]
    (result,) = run(implementations, deadline=deadline)
    assert [row.reason for row in result.rows] == [None, None, TIME_LIMIT]
    before = result.rows
    result.take([Row("a", "eager", reason=TIME_LIMIT), Row("late", "eager", samples=[1.0])])
    assert result.rows == before
    result.take([Row("a", "eager", samples=[2.0])])
    assert result.rows[0].seconds == 2.0
    assert result.rows[1:] == before[1:]


class Sleeper(Maps):
    """Takes long, and takes errors for an answer, as compilers do."""

    def forward(self, x):
        try:
            time.sleep(60)
        except Exception:
            time.sleep(60)
        return super().forward(x)


def test_time_limit_holds_in_what_takes_long():
    """What was measured before stays; of the case in which it passed, what is left is named."""
    deadline = timing.Deadline(limit=1e6)
    found = run([fake("a")], deadline=deadline)
    deadline.limit = deadline.elapsed + 3
    late = fake("late", lambda arch, size: Sleeper())
    found += run([fake("a"), late, fake("b")], deadline=deadline)
    assert deadline.elapsed - deadline.limit < 40  # and not one call of it
    reasons = [[row.reason for row in result.rows] for result in found]
    assert reasons == [[None], [TIME_LIMIT] * 3]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)  # nothing rings later
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


@pytest.mark.parametrize("mode", MODES)
def test_floor_follows_from_the_architecture(mode):
    case = Case("tiny", (224, 224), 3, "bf16", mode, "cpu")
    floor = count_floor(case)
    # The paper's table 1: 4.5 G multiply-adds for Swin-T at 224x224, classifier included.
    forward = 2 * 4.5e9 * 3
    assert floor.flops == pytest.approx(forward * (3 if mode == "train" else 1), rel=0.02)
    tokens = [56 * 56 * 96 // 2**stage for stage in range(4)]
    halves = sum(2 * 2 * depth * t for depth, t in zip((2, 2, 6, 2), tokens, strict=True))
    others = tokens[0] + sum(map(sum, itertools.pairwise(tokens))) + 2 * sum(tokens)
    weights = 27_520_698 * 4
    images = 3 * 224 * 224 * 4
    if mode == "train":  # of every layer: input once more, two gradients; the image's none
        halves += halves // 2 * 3
        merging = sum(2 * a + b for a, b in itertools.pairwise(tokens))
        others += tokens[0] + merging + 3 * sum(tokens)
        weights, images = 3 * weights, 2 * images
    assert floor.bytes == 3 * (2 * (halves + others) + images) + weights


def test_floor_takes_the_longer_of_two():
    assert Floor(flops=2e12, bytes=1e9).seconds(CEILINGS) == 2.0
    assert Floor(flops=1e11, bytes=1e9).seconds(CEILINGS) == 1.0


def test_ceilings_are_of_a_plausible_order(monkeypatch):
    ceilings = measure_ceilings("cpu", "fp32", repeats=1)
    assert 1e7 < ceilings.copy < 1e13
    assert 1e8 < ceilings.product < 1e15


def benchmark(results):
    peers = [Peer("a", "a 1.0", "does | less"), Peer("ours", None, "")]
    versions = {"torch": "2"}
    return Benchmark("python x", "2026-01-01", "a card", versions, 3, peers, CEILINGS, results, 9.0)


def two_rows():
    floor = Floor(flops=2e9, bytes=1e6)
    rows = [
        Row("a", "eager", 10, 0.5, [0.4, 0.2, 0.3], 2_000_000_000, host_seconds=0.0125),
        Row("ours", "eager", 10, 0.1, [0.1, 0.1], None),
        Row("a", "compiled", reason="not | today"),
    ]
    return benchmark([CaseResult(SMALL, floor, rows)])


def test_table_compares_with_ours():
    found = two_rows()
    (result,) = found.cases
    assert result.baseline.implementation == "ours"
    cells = dict(zip(tables.HEADINGS[1:], tables.cells(result.rows[0], result, found), strict=True))
    assert cells == {
        "ms": "300",
        "host ms": "12.5",
        "noise": "16.7%",  # quartiles 0.25 and 0.35
        "img/s": "6.667",
        "ours is": "3.00x",
        "peak GB": "2.00",
        "first call": "0.5",
        "of matmul": "0.7%",
        "of copy": "0.3%",
        "x floor": "150.0",
    }


def test_csv_has_the_hosts_time_where_it_was_measured():
    found = two_rows()
    lines = as_lines(found.cases[0], found)
    assert [line["host_ms"] for line in lines] == ["12.500", "", ""]


def test_the_hosts_time_ends_when_the_call_returns(monkeypatch):
    """Waiting for the device comes before it, and is not in it."""
    clock, events = [0.0], []

    def passes(name, seconds):
        events.append(name)
        clock[0] += seconds

    monkeypatch.setattr(timing, "synchronize", lambda device: passes(device, 10))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert timing.host_seconds(lambda: passes("step", 2), "cuda") == 2
    assert events == ["cuda", "step"]


def test_markdown_escapes_and_names_reasons():
    text = tables.as_markdown(two_rows())
    assert "| a, compiled | not \\| today |" in text
    assert "does \\| less" in text
    rows = [line for line in text.splitlines() if line.startswith("| a, eager")]
    assert len(rows) == 1


def test_results_survive_json(tmp_path):
    path = tmp_path / "folder" / "out.json"
    found = two_rows()
    found.save(path)
    assert Benchmark.load(path) == found


@pytest.mark.parametrize("text", ["{}", "[1]", "no json", '{"cases": []}'])
def test_other_json_is_refused(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        Benchmark.load(path)
    with pytest.raises(ValueError, match=r"other\.json"):
        profiling.load_profiles(path)


@pytest.mark.parametrize(
    ("name", "group", "short"),
    [
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl("
            "at::TensorIteratorBase&, at::native::GeluType)::{lambda()#1}>(int)",
            "elementwise",
            "vectorized_elementwise_kernel [GeluCUDAKernelImpl]",
        ),
        (
            "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda("
            "at::TensorIteratorBase&)::{lambda()#1}>(int)",
            "copies",
            "unrolled_elementwise_kernel [direct_copy_kernel_cuda]",
        ),
        (
            "void at::native::unrolled_elementwise_kernel<at::native::CUDAFunctor_add<float>>()",
            "elementwise",
            "unrolled_elementwise_kernel [CUDAFunctor_add]",
        ),
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNT", "matmul", None),
        (
            "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>(int)",
            "norms",
            "vectorized_layer_norm_kernel",
        ),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(Params)", "attention", None),
        ("attention_forward", "attention", "attention_forward"),
        ("Memcpy DtoD (Device -> Device)", "copies", None),
        ("aten::arange", "other", "arange"),
    ],
)
def test_kernels_are_grouped_and_shortened(name, group, short):
    assert profiling.group_of(name) == group
    if short is not None:
        assert profiling.short_name(name) == short


def test_overlapping_kernels_count_once():
    assert profiling.union([(5, 7), (0, 2), (1, 3), (6, 6.5)]) == 5


@pytest.mark.parametrize(
    ("spans", "others", "expected"),
    [
        ([], [(0, 1)], 0),
        ([(0, 4)], [], 4),
        ([(0, 4), (3, 5)], [], 5),  # overlaps count once
        ([(0, 4)], [(0, 9)], 0),
        ([(0, 4)], [(1, 2), (3, 8)], 2),
        ([(2, 6), (8, 9)], [(0, 3), (2.5, 4), (5, 8)], 2),
    ],
)
def test_what_nothing_else_covers(spans, others, expected):
    assert profiling.exposed(spans, others) == expected


def test_what_nothing_else_covers_by_counting():
    """On spans of whole numbers: unit by unit."""
    rng = random.Random()
    for _ in range(200):
        spans, others = (
            [(start, start + rng.randint(0, 6)) for start in rng.choices(range(30), k=5)]
            for _ in range(2)
        )
        units, covered = (
            {i for start, end in of for i in range(start, end)} for of in (spans, others)
        )
        assert profiling.exposed(spans, others) == len(units - covered)


@pytest.mark.parametrize(
    ("kind", "name", "annotation", "expected"),
    [
        ("CUDA", "gemm", False, True),
        ("CUDA", "my range", True, False),
        ("CUDA", "ProfilerStep#1", False, False),
        ("CPU", "aten::mm", False, False),
    ],
)
def test_only_kernels_count_as_device_work(kind, name, annotation, expected):
    device_type = getattr(torch.autograd.DeviceType, kind)
    event = SimpleNamespace(device_type=device_type, name=name, is_user_annotation=annotation)
    assert profiling.is_kernel(event) == expected


def test_profile_accounts_for_the_step():
    implementation = fake("a", lambda arch, size: nn.ModuleList([nn.Linear(64, 512)]))
    layer = nn.Linear(64, 512)
    images = torch.randn(256, 64)
    found = profiling.take_apart(lambda: layer(images), "cpu", 1.0, implementation.name, steps=4)
    (products,) = [entry for entry in found.entries if entry.name == "aten::addmm"]
    assert products.calls == 1
    assert products.group == "matmul"
    assert sum(found.groups().values()) == pytest.approx(sum(e.seconds for e in found.entries))
    assert found.entries == sorted(found.entries, key=lambda entry: -entry.seconds)


def test_profile_shows_the_floor_beside_each_kernel(tmp_path):
    entries = [
        profiling.Entry("mlp_forward", "matmul", 0.004, 2, floor=0.001, bound="products"),
        profiling.Entry("nvjet", "matmul", 0.002, 1),
        profiling.Entry("norm_forward", "norms", 0.003, 1, floor=0.002, bound="bytes"),
    ]
    found = profiling.Profile("x", 0.01, 0.009, entries, products_floor=0.0005)
    console = Console(width=160, file=io.StringIO())
    console.print(profiling.as_table(found))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]]
            for line in console.file.getvalue().splitlines() if "│" in line]  # fmt: skip
    by_name = {name: cells for name, *cells in rows}
    assert by_name["mlp_forward"] == [
        "matmul", "4.000", "40.0%", "2", "1.000", "4.0", "products"
    ]  # fmt: skip
    assert by_name["nvjet"][-3:] == ["", "", ""]
    assert by_name["PyTorch's own products"][-3:] == ["0.500", "4.0", "products"]
    assert by_name["all kernels with a floor"][-3:] == ["3.000", "2.3", ""]
    path = tmp_path / "profile.json"
    profiling.save_profiles([found], path)
    assert profiling.load_profiles(path) == [found]


@pytest.mark.slow
def test_command_line(tmp_path):
    """A whole run, from measuring to the picture; then the picture again from the JSON."""
    out = {name: tmp_path / f"out.{name}" for name in ("json", "png", "md", "csv")}
    names = ("v1-tiny-w7-b1-32x32-forward", "v2-tiny-w8-b2-32x64-train")
    done = call_tool(
        "benchmark_backbones.py",
        *("--device", "cpu", "--cases", *names, "--repeats", 1, "--csv", out["csv"]),
        *("--implementations", "ours", "ours:reference", "--cpu-memory"),
        *("--json", out["json"], "--plot", out["png"], "--markdown", out["md"]),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cases = json.loads(out["json"].read_text())["cases"]
    assert [case["case"]["version"] for case in cases] == ["v1", "v2"]
    for case in cases:
        assert [row["implementation"] for row in case["rows"]] == ["ours", "ours:reference"]
        for row in case["rows"]:
            assert row["reason"] is None
            assert row["peak_bytes"] > row["parameters"] * 4  # float32 weights, and more
    with out["csv"].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    found = [(line["version"], line["window"], line["batch"], line["mode"]) for line in lines]
    assert found == [("v1", "7", "1", "forward")] * 2 + [("v2", "8", "2", "train")] * 2
    assert all(float(line["images_per_second"]) > 0 and not line["reason"] for line in lines)
    assert all(float(line["host_ms"]) > 0 for line in lines)
    assert all("--cases v1-tiny-w7-b1" in line["command"] for line in lines)
    assert out["png"].read_bytes().startswith(b"\x89PNG")
    assert "| ours, eager |" in out["md"].read_text()
    out["png"].unlink()
    shown = call_tool("benchmark_backbones.py", "--show", out["json"], "--plot", out["png"])
    assert "ours:reference, eager" in shown.stdout
    assert out["png"].is_file()


@pytest.mark.slow
def test_profile_from_the_command_line(tmp_path):
    picture, numbers = tmp_path / "profile.png", tmp_path / "profile.json"
    options = ("--device", "cpu", "--sizes", "32x32")
    done = call_tool("benchmark_backbones.py", "--profile", picture, "--json", numbers, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "aten::native_layer_norm" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    forward, train = profiling.load_profiles(numbers)
    assert "forward" in forward.title
    assert "train" in train.title


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "512"], "HxW"),
        (["--cases", "v1-tiny"], "--cases: must be such as v1-tiny-w7"),
        (["--cases", "v1-tiny-w7", "--batch", "2"], "leave out the options"),
        (["--cases", "v1-tiny-w7", "--modes", "latency"], "no case of v1-tiny-w7 has them"),
        (["--sizes", "32x32", "--batch", "1", "2"], "--batch takes one number"),
        (["--repeats", "0"], "--repeats: must be an integer >= 1"),
        (["--implementations", "theirs"], "invalid choice: 'theirs'"),
        (["--profile", "x.png", "--implementations", "ours", "mmseg"], "takes apart one"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message, monkeypatch, capsys):
    import benchmark_backbones as tool

    monkeypatch.setattr(sys, "argv", ["benchmark_backbones.py", *arguments])
    with pytest.raises(SystemExit):
        tool.main()
    assert message in capsys.readouterr().err
