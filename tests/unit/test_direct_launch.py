"""Starting compiled kernels by addresses: when, and with which arguments."""

import pytest
import torch
from helpers.triton_kernels import triton  # skips first where no kernel can run

from swin_backbone import SwinBackbone
from swin_backbone.ops.triton import direct_launch, launch
from swin_backbone.ops.triton.direct_launch import VARIABLE, direct_start, why_plain
from swin_backbone.ops.triton.launch import Launch

PACKAGE = "swin_backbone.ops.triton."


class Compiled:
    """Stands in for what Triton's launch returns."""

    function, packed_metadata = "function", "metadata"

    def __init__(self):
        self.started = []

    def run(self, *arguments):
        self.started.append(arguments)


class Kernel:
    """Stands in for a kernel of Triton: three arguments, then a constant."""

    arg_names = ("x", "out", "rows", "CHANNELS")

    def __init__(self, compiled=None):
        self.compiled = compiled or Compiled()
        self.plain = []

    def __getitem__(self, grid):
        def start(*tensors, **options):
            self.plain.append((grid, tensors, options))
            return self.compiled

        return start


class OnGpu(torch.Tensor):
    """Says that it lies on GPU 0."""

    def get_device(self):
        return 0


@pytest.fixture
def on_gpu(monkeypatch):
    """Two aligned tensors, on a GPU for all that a launch asks, whose stream is 77."""
    monkeypatch.setattr(launch, "VARIANTS", {})
    monkeypatch.setattr(launch, "current_device", lambda: 0)
    monkeypatch.setattr(direct_launch, "current_stream", lambda: lambda device: 77 + device)
    return [torch.zeros(64).as_subclass(OnGpu) for _ in range(2)]


@pytest.mark.parametrize("version", ["3.3.0", "3.6.0", "3.8.1", "3.8.0+git12"])
def test_kernels_are_started_directly_with_triton_as_tested(on_gpu, monkeypatch, version):
    monkeypatch.setattr(triton, "__version__", version)
    assert why_plain() is None
    kernel = Kernel()
    start = Launch(kernel, (5,), (64,), {"CHANNELS": 8}, {"num_warps": 4})
    for _ in range(3):
        start(*on_gpu)
    assert len(kernel.plain) == 1  # the one that compiles
    assert kernel.plain[0][0] == (5, 1, 1)
    addresses = [x.data_ptr() for x in on_gpu]
    expected = (5, 1, 1, 77, "function", "metadata", None, None, None, *addresses, 64, 8)
    assert kernel.compiled.started == [expected] * 2


@pytest.mark.parametrize("version", ["2.3.1", "3.2.0", "3.9.0", "4.0.0"])
def test_another_triton_launches_in_its_own_way(on_gpu, monkeypatch, version):
    monkeypatch.setattr(triton, "__version__", version)
    assert version in why_plain()
    assert_plain(on_gpu, Kernel())


def test_the_environment_switches_it_off(on_gpu, monkeypatch):
    monkeypatch.setenv(VARIABLE, "0")
    assert why_plain() == f"{VARIABLE}=0"
    assert_plain(on_gpu, Kernel())


@pytest.mark.parametrize("value", ["", "2", "off", "yes"])
def test_another_value_of_the_environment_is_an_error(on_gpu, monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=f"{VARIABLE} must be 0 or 1, got '{value}'"):
        why_plain()


@pytest.mark.parametrize("part", ["run", "function", "packed_metadata"])
def test_what_is_compiled_in_another_way_is_launched_plainly(on_gpu, part):
    class Other(Compiled):
        pass

    setattr(Other, part, None)
    assert direct_start(Other(), 0) is None
    assert_plain(on_gpu, Kernel(Other()))


def test_without_a_stream_launches_are_plain(on_gpu, monkeypatch):
    monkeypatch.setattr(direct_launch, "current_stream", lambda: None)
    assert_plain(on_gpu, Kernel())


def assert_plain(tensors, kernel):
    start = Launch(kernel, (5,), (64,), {"CHANNELS": 8}, {"num_warps": 4})
    for _ in range(3):
        start(*tensors)
    options = {"CHANNELS": 8, "num_warps": 4}
    assert kernel.plain == [((5, 1, 1), (*tensors, 64), options)] * 3
    assert kernel.compiled.started == []


def test_addresses_that_are_not_aligned_are_launched_plainly(on_gpu):
    odd = [torch.zeros(64)[1:].as_subclass(OnGpu), on_gpu[1]]
    assert_plain(odd, Kernel())


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"version": "v2"}, {"packed": True}])
def test_both_ways_give_the_same_bits(monkeypatch, options):
    """Of all operations of a backbone, forward and backward."""
    assert why_plain() is None, "this Triton is not one of those that are tested"
    model = SwinBackbone(
        embed_dims=32, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1),
        drop_path_rate=0.1, **options,
    ).cuda()  # fmt: skip
    images = torch.randn(2, 3, 90, 122, device="cuda")
    sizes = torch.tensor([[90, 122], [61, 77]]) if "packed" in options else None
    started = []
    direct = direct_launch.direct_start

    def counted(compiled, device):
        start = direct(compiled, device)

        def count(*arguments):
            started.append(compiled)
            start(*arguments)

        return start and count

    def step(mode):
        launch.forget_launches()
        monkeypatch.setenv(VARIABLE, mode)
        monkeypatch.setattr(launch, "VARIANTS", {})
        monkeypatch.setattr(launch, "direct_start", counted)
        started.clear()
        for _ in range(2):  # the first launch of a kernel is always plain
            model.zero_grad()
            torch.manual_seed(0)
            with torch.autocast("cuda", torch.bfloat16):
                maps = model(images, sizes)
            sum(m.float().square().mean() for m in maps).backward()
        return len(started), [*maps, *(p.grad for p in model.parameters() if p.grad is not None)]

    (many, directly), (none, plainly) = step("1"), step("0")
    assert many > 10
    assert none == 0
    assert all(torch.equal(*pair) for pair in zip(directly, plainly, strict=True))
