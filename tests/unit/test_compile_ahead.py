"""Kernels are compiled ahead of a step, which leaves the model as it was."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from helpers.threads import errors_of_threads
from torch import nn

from swin_backbone import SwinBackbone
from swin_backbone.acceleration.compile_ahead import compile_kernels, kept_state
from swin_backbone.ops.triton import compile_ahead, direct_launch, launch


def small_model():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))


def step(model, x):
    model.train()
    loss = model(x).square().sum()
    loss.backward()
    return loss.detach()


def state(model):
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [b.clone() for b in model.buffers()], gradients, [m.training for m in model.modules()]


def step_and_fail(model, x):
    with kept_state(model):
        step(model, x)
        x.reshape(7)


@pytest.mark.parametrize("has_gradients", [False, True])
def test_state_is_put_back(has_gradients):
    model, x = small_model().eval(), torch.randn(2, 3, 8, 8)
    if has_gradients:
        step(model, x)
        model.eval()
    torch.manual_seed(3)
    before, drawn = state(model), torch.rand(3)
    torch.manual_seed(3)
    with pytest.raises(RuntimeError, match="shape"):
        step_and_fail(model, x)
    assert torch.equal(torch.rand(3), drawn)
    buffers, gradients, modes = state(model)
    assert all(torch.equal(*pair) for pair in zip(buffers, before[0], strict=True))
    assert modes == before[2]
    for now, then in zip(gradients, before[1], strict=True):
        assert (now is None and then is None) or torch.equal(now, then)


def test_a_model_on_a_cpu_starts_no_kernels():
    calls = []
    assert compile_kernels(small_model(), lambda: calls.append(1)) == (0, 0.0)
    assert not calls


@pytest.mark.parametrize(
    ("model", "threads", "error", "message"),
    [
        ("no model", None, TypeError, r"model must be a torch\.nn\.Module, got str"),
        (nn.Identity(), 0, ValueError, "threads must be at least 1, got 0"),
    ],
)
def test_bad_arguments(model, threads, error, message):
    with pytest.raises(error, match=message):
        compile_kernels(model, lambda: None, threads)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_is_the_same(version):
    """The same bits as a model whose kernels were compiled as they were started."""
    torch.manual_seed(0)
    model = SwinBackbone(
        embed_dims=32, depths=(1, 1), num_heads=(1, 2), out_indices=(0, 1), strides=(4, 2),
        window_size=7, version=version, drop_path_rate=0.5,
    ).cuda()  # fmt: skip
    x = torch.randn(2, 3, 64, 96, device="cuda")

    def run():
        model.train().zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            maps = model(x)
        sum(m.float().square().sum() for m in maps).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    state_before = torch.cuda.get_rng_state()
    assert compile_kernels(model, run, threads=4).kernels > 0
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.cuda.get_rng_state(), state_before)
    first = run()
    torch.cuda.set_rng_state(state_before)
    assert all(torch.equal(*pair) for pair in zip(first, run(), strict=True))
    assert compile_kernels(model, run).kernels == 0  # all are there


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_processes_wait_for_the_first(monkeypatch, fails, rank):
    """Once each, with whatever norms, and also for one that fails."""
    from mmengine.logging import MMLogger

    from swin_backbone.openmmlab import compile_ahead_hook

    called = []
    MMLogger.get_current_instance()  # asks for devices when it is made
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compile_ahead_hook, "get_local_rank", lambda: rank)
    monkeypatch.setattr(compile_ahead_hook, "barrier", lambda: called.append("barrier"))

    def compile_kernels(model, run, threads, wait):
        if wait is not None:
            wait()
        called.append("compile")
        if fails:
            raise ValueError("no batch of this model's")
        return SimpleNamespace(kernels=1, seconds=1.0)

    monkeypatch.setattr(compile_ahead_hook, "compile_kernels", compile_kernels)
    hook = compile_ahead_hook.CompileAheadHook()
    for _ in range(2):
        hook.before_train_iter(SimpleNamespace(model=nn.Sequential()), 0, {})
    assert called == (["compile", "barrier"] if rank == 0 else ["barrier", "compile"])


def test_without_kernels_a_process_waits_all_the_same():
    calls = []
    run, wait = (lambda: calls.append("run")), (lambda: calls.append("wait"))
    assert compile_kernels(small_model(), run, wait=wait) == (0, 0.0)
    assert calls == ["wait"]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_compiled_before_the_wait(stand_in_driver, fails):
    """And the wait comes once, also for a pass that fails."""
    order = []

    def warmup(*arguments, **options):
        order.append("compiled")
        return Compiled(1, [])

    one = SimpleNamespace(
        kernel=SimpleNamespace(warmup=warmup),
        **{"compiled": {}, "numbers": (), "grid": (1, 1, 1), "constants": {}, "options": {}},
    )

    def run():
        with compile_ahead.collect_launches(2, lambda: order.append("waited")) as collected:
            for _ in range(2):
                collected.add(one, 0, (torch.zeros(1, device="cpu"),))
            order.append("ran")
            if fails:
                raise ValueError("this batch does not go through")
        assert collected.kernels == 1

    if fails:
        with pytest.raises(ValueError, match="does not go through"):
            run()
    else:
        run()
    assert order == ["ran", "waited", *([] if fails else ["compiled"])]


class NamedAlike:
    """Launchers as Triton 3.6 loads them: modules of C of one name, whose functions Python keeps in
    one place, where the next thread may put its own before they are taken out."""

    place = SimpleNamespace()

    def __init__(self, source, metadata):
        NamedAlike.place.launch = source
        time.sleep(0.002)
        self.launch = NamedAlike.place.launch


class Compiled:
    """Stands in for a kernel that Triton compiled, and tells which launcher started it."""

    function, packed_metadata, metadata = "function", "packed", "metadata"

    def __init__(self, number, started):
        self.src, self.started, self.loaded = number, started, None

    @property
    def run(self):
        self.loaded = self.loaded or NamedAlike(self.src, self.metadata)
        return lambda *arguments: self.started.append(self.loaded.launch)


@pytest.fixture
def stand_in_driver(monkeypatch):
    active = SimpleNamespace(launcher_cls=NamedAlike)
    stand_in = SimpleNamespace(
        __version__="3.6.0", runtime=SimpleNamespace(driver=SimpleNamespace(active=active))
    )
    monkeypatch.setattr(direct_launch, "triton", stand_in)
    monkeypatch.setattr(direct_launch, "current_stream", lambda: lambda device: 77)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())


def test_each_kernel_gets_its_own_launcher(stand_in_driver):
    """Of many that are compiled by threads."""
    started, launches = [], []
    with compile_ahead.collect_launches(8) as collected:
        for number in range(40):
            kernel = SimpleNamespace(
                warmup=lambda *a, number=number, **options: Compiled(number, started)
            )
            launches.append(
                SimpleNamespace(
                    kernel=kernel, compiled={}, numbers=(), grid=(1, 1, 1), constants={}, options={}
                )
            )
            collected.add(launches[-1], 0, (torch.zeros(1),))
    assert collected.kernels == 40
    for one in launches:
        (start,) = one.compiled.values()
        start((1, 1, 1), [], ())
    assert started == list(range(40))


class Kernel:
    """Stands in for one that Triton compiles and loads when it is started."""

    arg_names = ("x", "CHANNELS")

    def __init__(self, number, started):
        self.compiled = Compiled(number, started)

    def __getitem__(self, grid):
        def start(*arguments, **options):
            self.compiled.run()
            return self.compiled

        return start


class OnGpu(torch.Tensor):
    """Says that it lies on GPU 0."""

    def get_device(self):
        return 0


def test_threads_that_start_kernels_get_their_own_launchers(stand_in_driver, monkeypatch):
    """As those of ``nn.DataParallel``, or of a backward pass over several devices."""
    monkeypatch.setattr(launch, "VARIANTS", {})
    monkeypatch.setattr(launch, "current_device", lambda: 0)
    started, x = [], torch.zeros(64).as_subclass(OnGpu)

    def run(number):
        one = launch.Launch(Kernel(number, started), (1,), (), {"CHANNELS": number}, {})
        for _ in range(2):  # compiled, and then directly
            one(x)

    assert not errors_of_threads(run, 16)
    assert sorted(started) == sorted([*range(16)] * 2)


@pytest.mark.parametrize(("version", "built"), [("3.6.0", 1), ("4.0.0", 0)])
def test_launchers_are_built_where_that_is_known(stand_in_driver, monkeypatch, version, built):
    """With another Triton they are as kernels are loaded."""
    monkeypatch.setattr(direct_launch.triton, "__version__", version)
    made = []
    active = direct_launch.triton.runtime.driver.active
    monkeypatch.setattr(active, "launcher_cls", lambda *arguments: made.append(arguments))
    direct_launch.build_launcher(Compiled(3, []))
    direct_launch.build_launcher(object())  # of no kind that is known
    assert made == [(3, "metadata")] * built
