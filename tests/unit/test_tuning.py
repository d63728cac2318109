"""Tuning of kernels, with a clock that is not one, in Triton's interpreter."""

import json
import logging
import multiprocessing

import pytest
import torch
from helpers.triton_kernels import (  # skips first where no kernel can run
    DEVICE,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from swin_backbone.ops import (
    CosineScores,
    LinearParameters,
    NormParameters,
    Windows,
    post_norm_attention,
    post_norm_mlp,
    residual_attention,
    residual_mlp,
)
from swin_backbone.ops.triton import launch, row_attention_op, tuning
from swin_backbone.ops.triton import linear_op as products
from swin_backbone.ops.triton import residual_mlp_op as fused_mlp
from swin_backbone.ops.triton.launch import Config
from swin_backbone.ops.triton.tuning import Tuner, Work
from swin_backbone.ops.triton.tuning_cache import Memory, default_path

# As they are for float32; candidates are listed for half precision.
SMALL = Config(rows=32, columns=32, depth=32, warps=2)
WIDE = Config(rows=32, columns=64, depth=32, warps=2)


class Clock:
    """Runs what it times, and says what it was told that the configuration takes."""

    def __init__(self, kernel, seconds):
        self.kernel = kernel
        self.seconds = seconds
        self.timed = []

    def __call__(self, run):
        run()
        chosen = self.tuner.trial.get(self.kernel)
        self.timed.append(chosen)
        taken = self.seconds.get(chosen, 9.0)
        if isinstance(taken, Exception):
            raise taken
        return taken


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a tuner into use that stores in a file of this test."""
    listed = tuple(chosen._replace(depth=2 * chosen.depth) for chosen in (SMALL, WIDE))
    monkeypatch.setitem(tuning.CANDIDATES, "linear", listed)
    monkeypatch.setattr(products, "ENOUGH_PROGRAMS", 1)  # few rows are enough for large blocks

    def put(seconds, kernel="linear"):
        clock = Clock(kernel, seconds)
        memory = Memory(tmp_path / "cache" / "kernels.json", "a card")
        clock.tuner = Tuner(memory, "a card", clock)
        monkeypatch.setattr(tuning, "chosen_tuner", clock.tuner)
        launch.forget_launches()
        return clock

    yield put
    launch.forget_launches()


def project(rows=40):
    """A product in blocks, checked: whatever is tried, the result is that of the reference."""
    a, weight, bias, residual = (
        torch.randn(*shape, device=DEVICE) for shape in ((1, rows, 32), (48, 32), (48,), (rows, 48))
    )
    out = products.multiply(a, weight, bias, residual[None])
    torch.testing.assert_close(out, residual + a @ weight.t() + bias, rtol=1e-4, atol=1e-4)


def test_the_best_is_remembered_and_used(install, caplog, tmp_path):
    clock = install({WIDE: 1.0, SMALL: 2.0})
    with caplog.at_level(logging.INFO):
        project()
    assert len(clock.timed) == 3  # what is shipped, and the two candidates
    assert "tuning linear for 48 channels, 40 rows" in caplog.text
    assert "tuned linear in" in caplog.text
    assert tuning.config("linear", 48, 40, torch.float32) == WIDE
    project()
    project(rows=33)  # the same power of two
    assert len(clock.timed) == 3
    project(rows=70)
    assert len(clock.timed) == 6
    stored = json.loads((tmp_path / "cache" / "kernels.json").read_text())
    assert stored == {"a card": {"linear/48/32": {"6": WIDE._asdict(), "7": WIDE._asdict()}}}


def test_another_process_finds_what_was_remembered(install):
    install({SMALL: 1.0})
    project()
    clock = install({})
    project()
    assert clock.timed == []
    assert tuning.config("linear", 48, 40, torch.float32) == SMALL
    # Where nothing may be timed, the nearest number of rows is better than nothing.
    assert tuning.config("linear", 48, 4000, torch.float32) == SMALL
    assert tuning.config("linear", 48, 40, torch.float16) == launch.config(
        "linear", 48, torch.float16
    )


@pytest.mark.parametrize(
    "content", ["", '{"a card": {"linear/48/32": {"6": {"ro', "[1]", '{"a card": {"linear": 3}}']
)
def test_a_broken_file_is_tuned_anew(install, caplog, tmp_path, content):
    path = tmp_path / "cache" / "kernels.json"
    path.parent.mkdir()
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        clock = install({SMALL: 1.0})
    assert "cannot be read" in caplog.text
    project()
    assert len(clock.timed) == 3
    assert json.loads(path.read_text())["a card"]["linear/48/32"]["6"] == SMALL._asdict()


def test_candidates_that_fail_are_skipped(install, caplog):
    clock = install({SMALL: RuntimeError("out of shared memory"), WIDE: 1.0})
    with caplog.at_level(logging.DEBUG):
        project()
    assert SMALL in clock.timed
    assert "RuntimeError: out of shared memory" in caplog.text
    assert tuning.config("linear", 48, 40, torch.float32) == WIDE


def test_if_all_fail_what_ships_is_taken(install, caplog):
    shipped = tuning.config("linear", 48, 40, torch.float32)
    clock = install(dict.fromkeys([SMALL, WIDE, shipped], ValueError("no")))
    project()
    assert "no candidate for" in caplog.text
    assert tuning.config("linear", 48, 40, torch.float32) == shipped
    project()
    assert len(clock.timed) == 3  # and not again


def test_a_folder_that_cannot_be_written(install, caplog, tmp_path):
    (tmp_path / "cache").write_text("a file")
    clock = install({SMALL: 1.0})
    project()
    project()
    assert "is not remembered in" in caplog.text
    assert len(clock.timed) == 3


def test_nothing_is_timed_where_it_could_change_results(install):
    clock = install({})
    torch.use_deterministic_algorithms(True)
    try:
        project()
    finally:
        torch.use_deterministic_algorithms(False)
    assert clock.timed == []
    with FakeTensorMode():
        assert not tuning.may_time(torch.empty(2))
    seen = []

    def traced(x):
        seen.append(tuning.may_time(x))
        return x + 1

    torch.compile(traced, backend="eager", fullgraph=True)(torch.zeros(2))
    assert seen[0] is False
    assert tuning.may_time(torch.zeros(2))


def test_every_kernel_with_candidates_is_tuned(install, monkeypatch):
    """Forward and backward passes of the branches of V1 and V2, in small and large windows, of few
    and many channels; products with outputs for one program, and for several."""
    clock = install({}, kernel=None)
    monkeypatch.setattr(products, "ENOUGH_PROGRAMS", 2)
    monkeypatch.setattr(fused_mlp, "writes_hidden", lambda *_: False)  # as for half precision
    monkeypatch.setattr(tuning, "CANDIDATES", dict.fromkeys(tuning.CANDIDATES, ()))
    large = [(320, 10, (8, 10)), (64, 2, (8, 16)), (32, 2, (9, 8))]  # blocks of 32, of 64, rows
    for channels, heads, window in ((32, 2, (4, 4)), *large):
        monkeypatch.setattr(row_attention_op, "ELEMENT_BYTES", 4 if window == (9, 8) else 2)

        def parameters(outputs, inputs):
            weight = torch.randn(outputs, inputs, device=DEVICE, requires_grad=True)
            return LinearParameters(weight, torch.randn(outputs, device=DEVICE))

        norm = NormParameters(*torch.rand(2, channels, device=DEVICE), 1e-5)
        table = torch.randn((2 * window[0] - 1) * (2 * window[1] - 1), heads, device=DEVICE)
        x = torch.randn(1, 3, 5, channels, device=DEVICE)
        windows = Windows(heads, window, (0, 0), 0.1)
        qkv, proj = parameters(3 * channels, channels), parameters(channels, channels)
        x = residual_attention(x, norm, qkv, table, proj, windows, backend="triton")
        up, down = parameters(128, channels), parameters(channels, 128)
        residual_mlp(x, norm, up, down, backend="triton").sum().backward()
        bias = LinearParameters(*torch.randn(2, 64, 2, device=DEVICE).unbind())
        bias = bias._replace(bias=bias.bias[:, 0].contiguous())
        scale, per_head = torch.ones(heads, 1, 1, device=DEVICE), torch.randn(heads, 64).to(DEVICE)
        scores = CosineScores(scale, bias, per_head)
        y = post_norm_attention(
            x.detach(), qkv.weight, None, scores, proj, norm, windows, backend="triton"
        )
        post_norm_mlp(y, up, down, norm, backend="triton").sum().backward()
    tuned = {group.split("/")[0] for group in clock.tuner.memory.entries}
    assert tuned == set(tuning.CANDIDATES) == set(tuning.CAUTIOUS)


def remember_many(path, name):
    memory = Memory(path, "a card")
    for bucket in range(40):
        memory.remember(name, bucket, Config(rows=bucket + 1))


def test_two_processes_lose_nothing(tmp_path):
    path = tmp_path / "kernels.json"
    fork = multiprocessing.get_context("fork")  # which has imported everything already
    runs = [fork.Process(target=remember_many, args=(path, name)) for name in ("one", "two")]
    for run in runs:
        run.start()
    for run in runs:
        run.join(timeout=120)
    assert [run.exitcode for run in runs] == [0, 0]
    entries = Memory(path, "a card").entries
    for name in ("one", "two"):
        assert entries[name] == {bucket: Config(rows=bucket + 1) for bucket in range(40)}
    assert {p.name for p in tmp_path.iterdir()} == {"kernels.json", "kernels.lock"}


def test_where_the_file_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "swin_backbone" / "kernels.json"


@pytest.mark.parametrize(
    ("card", "mode", "tunes"),
    [
        ("NVIDIA H100 80GB HBM3", "1", False),
        ("NVIDIA H200", "force", True),
        ("NVIDIA A100-SXM4-80GB", "1", True),
        ("NVIDIA A100-SXM4-80GB", "0", False),
    ],
)
def test_modes(monkeypatch, tmp_path, card, mode, tunes):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(tuning.VARIABLE, "1")  # restored at the end, as is the tuner
    monkeypatch.setattr(tuning, "chosen_tuner", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card)
    tuning.set_mode(mode)
    assert (tuning.current() is not None) == tunes


def test_modes_that_are_none(monkeypatch):
    with pytest.raises(ValueError, match="mode of tuning must be one of 0, 1, force, got 'yes'"):
        tuning.set_mode("yes")
    monkeypatch.setenv(tuning.VARIABLE, "2")
    with pytest.raises(ValueError, match="SWIN_BACKBONE_TUNE must be one of 0, 1, force, got '2'"):
        tuning.make_tuner()


def test_blocks_that_fit(monkeypatch):
    """What is known of the compiler's limits; and half the depth for elements of twice the size."""
    for kernel, candidates in tuning.CANDIDATES.items():
        for chosen in candidates:
            assert chosen.stages >= 2, kernel
        for chosen in (*candidates, tuning.CAUTIOUS[kernel]):
            side = chosen.columns if kernel == "mlp_weight_gradients" else chosen.rows
            assert (
                kernel.startswith(("attention", "rows", "streamed")) or side // chosen.warps >= 16
            ), kernel
            assert 128 % chosen.columns == 0
    work = Work("gelu_backward", 384, 100, torch.bfloat16)
    assert {c.depth for c in tuning.candidates_for(work)} == {32, 64}
    wide = work._replace(dtype=torch.float32)
    assert {c.depth for c in tuning.candidates_for(wide)} == {16, 32}
    monkeypatch.setattr(tuning, "has_room", lambda: False)
    assert tuning.config(*work) == tuning.CAUTIOUS["gelu_backward"]
