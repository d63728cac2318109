"""What accelerated encoders of other libraries do on a GPU: there, or in Triton's interpreter."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from helpers.encoders_by_kernels import take_kernels
from helpers.errors import relative_error
from helpers.peers import PEERS, make_theirs
from helpers.triton_kernels import DEVICE  # skips where none can run
from torch.utils._python_dispatch import TorchDispatchMode

import swin_backbone

SIZES = {"embed_dims": 32, "depths": (2, 1), "num_heads": (1, 2), "window_size": 2}
IMAGE = 16
#: The interpreter multiplies no bfloat16.
LOW = torch.bfloat16 if DEVICE == "cuda" else torch.float16
LIBRARIES = [
    "transformers",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("mmseg", "timm", "torchvision")),
]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    take_kernels(monkeypatch)


def make(name, version="v1", **options):
    model = make_theirs(name, version, image_size=IMAGE, **{**SIZES, **options}).to(DEVICE)
    fast = copy.deepcopy(model)
    report = swin_backbone.accelerate(fast, pools=False, channels_last=False)
    assert not report.left
    return model, fast


def differentiate(run, model, images, autocast=True):
    """Maps and gradients, float64, flat."""
    images = images.clone().requires_grad_()
    model.zero_grad()
    torch.manual_seed(0)  # drop path draws the same
    with torch.autocast(DEVICE, LOW, enabled=autocast):
        maps = run(model, images)
    generator = torch.Generator().manual_seed(1)
    sum((m * torch.randn(m.shape, generator=generator).to(m)).sum() for m in maps).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    found = [torch.cat([m.flatten() for m in maps]), torch.cat(gradients), images.grad]
    return [tensor.detach().double() for tensor in found]


@pytest.mark.parametrize("name", LIBRARIES)
def test_low_precision_is_as_near_to_float64_as_the_untouched_models(name):
    """Within 1.5 times its error, which is of the size of rounding."""
    model, fast = make(name)
    images, run = torch.randn(1, 3, IMAGE, IMAGE, device=DEVICE), PEERS[name].maps
    exact = differentiate(run, copy.deepcopy(model).double(), images.double(), autocast=False)
    untouched = differentiate(run, model, images)
    for _ in range(2):  # in the second pass weights are cast together
        found = differentiate(run, fast, images)
        for ours, theirs, right in zip(found, untouched, exact, strict=True):
            assert ours.shape == theirs.shape
            assert relative_error(ours, right) <= 1.5 * relative_error(theirs, right) + 1e-4


class Operators(TorchDispatchMode):
    """Counts the operators that write something."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def count(run, model, images):
    with Operators() as operators, torch.no_grad(), torch.autocast(DEVICE, LOW):
        run(model, images)
    return operators.counts


#: Operators that pass over maps or weights.
COSTLY = {"_to_copy", "add", "cat", "clone", "constant_pad_nd", "mul", "native_layer_norm", "roll"}
COSTLY |= {"addmm", "index_fill_", "index_select", "linear", "mm", "_foreach_copy_"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_weights_are_cast_once_however_many_blocks_there_are(name):
    images, run = torch.randn(1, 3, IMAGE, IMAGE, device=DEVICE), PEERS[name].maps
    found = []
    for depth in (2, 4):
        _, fast = make(name, depths=(depth, 1))
        count(run, fast, images)  # from then on it is known who casts
        counts = count(run, fast, images)
        assert counts["_foreach_copy_"] == 1
        found.append(counts["cat"] + counts["_to_copy"] + counts["native_layer_norm"])
    assert found[0] == found[1]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_maps_that_windows_do_not_cover_take_no_more_operators(version):
    """timm rolls its maps before it fills them up to windows, which kernels do as they read."""
    images, run = torch.randn(1, 3, IMAGE, IMAGE, device=DEVICE), PEERS["timm"].maps
    found = []
    for window in (2, 3):
        _, fast = make("timm", version, window_size=window)
        count(run, fast, images)
        found.append(count(run, fast, images))
    even, uneven = (Counter({n: c for n, c in counts.items() if n in COSTLY}) for counts in found)
    assert uneven == even
    assert not {"index_select", "index_fill_", "roll"} & found[1].keys()


def change_in_place(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def change_data(model):
    for parameter in model.parameters():
        parameter.data.mul_(1.1)


def change_memory(model):
    for parameter in model.parameters():
        parameter.data = 1.1 * parameter.data


def change_parameters(model):
    state = {name: 1.1 * tensor for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


CHANGES = [change_in_place, change_data, change_memory, change_parameters]


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change_are_never_computed_with_as_they_were(change):
    """After passes that were complete, and after one that ended at its first block."""
    _, fast = make("transformers")
    images, run = torch.randn(1, 3, IMAGE, IMAGE, device=DEVICE), PEERS["transformers"].maps
    for stops in (False, True):
        predict(run, fast, images)
        if stops:
            stop_behind_the_first_block(run, fast, images)
        change(fast)
        if stops and change is not change_data:  # which leaves no trace
            run_blocks_but_the_first(fast)
        again = predict(run, fast, images)
        fresh = predict(run, copy.deepcopy(fast), images)
        assert all(map(torch.equal, again, fresh))


def predict(run, model, images):
    with torch.no_grad(), torch.autocast(DEVICE, LOW):
        return run(model, images)


def blocks(model):
    return [module for module in model.modules() if type(module).__name__ == "SwinLayer"]


def stop_behind_the_first_block(run, model, images):
    def stop(*_):
        raise InterruptedError

    handle = blocks(model)[0].register_forward_hook(stop)
    with pytest.raises(InterruptedError):
        predict(run, model, images)
    handle.remove()


def run_blocks_but_the_first(model):
    """What each computes is what its copy does, which has cast nothing yet."""
    for block in blocks(model)[1:]:
        channels = block.layernorm_before.weight.shape[0]
        x = torch.randn(1, 16, channels, device=DEVICE)
        with torch.no_grad(), torch.autocast(DEVICE, LOW):
            found, fresh = (one(x, (4, 4)) for one in (block, copy.deepcopy(block)))
        assert torch.equal(found[0], fresh[0])


def test_blocks_that_recompute_have_the_same_gradients():
    _, fast = make("transformers")
    images, run = torch.randn(1, 3, IMAGE, IMAGE, device=DEVICE), PEERS["transformers"].maps
    expected = differentiate(run, fast.train(), images)
    fast.gradient_checkpointing_enable()
    for _ in range(2):
        found = differentiate(run, fast, images)
        for a, b in zip(found, expected, strict=True):
            assert relative_error(a, b) <= 1e-6


def test_a_model_that_has_run_is_copied_and_pickled():
    """A copy computes the same bits; one from a file as its classes do, within rounding."""
    _, fast = make("torchvision")
    images, run = torch.randn(1, 3, IMAGE, IMAGE, device=DEVICE), PEERS["torchvision"].maps
    expected = differentiate(run, fast, images)
    copied, read = copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))
    change_data(fast)
    assert all(map(torch.equal, differentiate(run, copied, images), expected))
    for a, b in zip(differentiate(run, read, images), expected, strict=True):
        assert relative_error(a, b) <= 1e-2


def test_frozen_projections_get_no_gradient():
    model, fast = make("transformers", depths=(1, 1))
    images, run = torch.randn(1, 3, IMAGE, IMAGE, device=DEVICE), PEERS["transformers"].maps
    for one in (model, fast):
        for name, parameter in one.named_parameters():
            parameter.requires_grad_("q_proj.weight" in name or "v_proj.bias" in name)
        differentiate(run, one, images)
    learned = [
        [n for n, p in one.named_parameters() if p.grad is not None] for one in (model, fast)
    ]
    assert learned[0] == learned[1] != []
