"""Under torch.compile a step of a whole model's parts is the operator that eager use takes."""

import copy

import pytest
import torch
from helpers import compiled_steps as steps
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run
from torch import nn

from swin_backbone.ops import LowPrecisionCopies, class_scores, resized_cross_entropy, triton


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Functions of many tests share code, of which torch compiles a few variants only."""
    torch._dynamo.reset()


def last(*shape):
    return torch.randn(*shape, device=DEVICE).to(memory_format=torch.channels_last).requires_grad_()


def compiled(function):
    return torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")


def outcome(function, inputs, learned):
    """The result and all gradients, the incoming one a part of a larger map, as concatenation's."""
    out = function(*inputs)
    batch, channels, height, width = out.shape
    whole = torch.zeros(batch, height, width, channels + 3, device=DEVICE)
    whole[..., :channels] = torch.arange(channels, device=DEVICE) / channels + 0.5
    grad = whole.permute(0, 3, 1, 2)[:, :channels]
    return [out.detach(), *torch.autograd.grad(out, learned, grad.to(out.dtype))]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


CONVOLUTIONS = {
    "product": {"kernel_size": 1},
    "square": {"kernel_size": 3, "padding": 1},
    "sparse": {"kernel_size": 3, "padding": 2, "stride": 2, "dilation": 2, "groups": 2},
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_norm(name, relu, frozen):
    """Gradients and running statistics after two steps of different sizes."""
    conv = nn.Conv2d(6, 8, bias=False, **CONVOLUTIONS[name]).to(DEVICE)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    conv.weight.requires_grad_(not frozen)
    norms = [nn.BatchNorm2d(8, momentum=0.3).to(DEVICE) for _ in range(2)]
    functions = [
        lambda x, norm=norm: triton.convolution_norm_op.convolution_norm(
            x, conv.weight.detach(), conv, norm, relu
        )
        for norm in norms
    ]
    functions[1] = compiled(functions[1])
    for size in [(5, 7), (6, 4)]:
        x = last(2, 6, *size)
        both = []
        for function, norm in zip(functions, norms, strict=True):
            learned = [x, norm.weight, norm.bias, *([] if frozen else [conv.weight])]
            both.append(outcome(function, [x], learned))
        assert_same(*both)
        assert both[0][0].stride() == both[1][0].stride()
    for name, buffer in norms[0].named_buffers():
        torch.testing.assert_close(buffer, norms[1].get_buffer(name))
    assert norms[1].num_batches_tracked == 2


def test_a_folded_norm():
    conv, norm = nn.Conv2d(6, 8, 3, bias=False).to(DEVICE), nn.BatchNorm2d(8).eval().to(DEVICE)
    norm.running_mean.normal_()

    def run(x):
        return triton.convolution_norm_op.folded_convolution(x, conv, norm, True)

    with torch.no_grad():
        x = last(2, 6, 5, 7)
        assert_same([run(x)], [compiled(run)(x)])


def test_pools():
    def run(x):
        return triton.pool_op.pool(x, (2, 3))

    with torch.no_grad():
        x = last(2, 6, 5, 7)
        assert_same([run(x)], [compiled(run)(x)])


def test_maps_that_are_resized_to_their_places():
    def run(a, b, c):
        base = triton.resize_op.add(a, b, False)
        return triton.resize_op.concatenate([base, b, c], tuple(a.shape[2:]), False)

    compile_run = compiled(run)
    for size in [(6, 8), (7, 9)]:
        inputs = [last(2, 4, *size), last(2, 4, 3, 4), last(2, 8, 2, 2)]
        found = [outcome(function, inputs, inputs) for function in (run, compile_run)]
        assert_same(*found)
        assert found[0][0].stride() == found[1][0].stride()


def test_class_scores():
    conv = nn.Conv2d(6, 5, 1).to(DEVICE)

    def run(x):
        return class_scores(x, conv.weight, conv.bias, torch.float32)

    x = last(2, 6, 3, 4)
    learned = [x, conv.weight, conv.bias]
    assert_same(*(outcome(function, [x], learned) for function in (run, compiled(run))))


@pytest.mark.parametrize("avg_non_ignore", [True, False])
def test_losses_of_many_sizes(avg_non_ignore):
    """A mean over pixels is no reason for a graph of each size."""

    def run(x, labels):
        options = {"avg_non_ignore": avg_non_ignore, "impl": "triton", "ignore_index": 0}
        return 2 * resized_cross_entropy(x, labels, **options).loss

    call, graphs = steps.compiled(run)
    for size, count in [((4, 6), 1), ((5, 8), 2), ((7, 4), 2), ((6, 9), 2)]:
        x = torch.randn(2, 3, *size, device=DEVICE, requires_grad=True)
        labels = torch.randint(3, (2, 2 * size[0], 2 * size[1]), device=DEVICE)
        both = []
        for function in (run, call):
            loss = function(x, labels)
            both.append([loss.detach(), *torch.autograd.grad(loss, [x])])
        assert_same(*both)
        assert graphs.frame_count == count


def test_equal_gradients_are_computed_once():
    """Maps of one size that are resized to one size and added: their gradients are one, which eager
    use computes for each."""

    def run(a, b, c):
        maps = (2 * a, 3 * b, 4 * c)
        return sum(triton.resize_op.resize(x, 6, 8, False) for x in maps)

    inputs = [last(2, 4, 3, 4) for _ in range(3)]
    found, gradients = [], []
    for function in (run, steps.compiled(run)[0]):
        with steps.started_kernels() as kernels:
            found.append(outcome(function, inputs, inputs))
        gradients.append(kernels.pop("resize_backward_last"))
        assert kernels == {"resize_forward_last": 3}
    assert gradients == [3, 1]
    assert_same(*found)


def test_results_that_share_memory_are_copied():
    """As operators must not return them; what has its memory to itself, a view or not, stays."""
    places = []

    def pieces(x: torch.Tensor) -> list[torch.Tensor]:
        flat = torch.cat([x, x])
        rows, empty = (x + 1).view(1, -1), x.new_empty(0)
        places.extend((rows.data_ptr(), flat.data_ptr()))
        return [flat[: len(x)], rows, flat[len(x) :], empty, empty[:]]

    # Another name of an operator is another operator, however often this is run.
    operator = triton.autograd_op.register(f"pieces_{id(places)}", pieces)
    x = torch.randn(3, device=DEVICE)
    one, rows, other, *empty = operator(x)
    assert torch.equal(torch.stack([one, other]), torch.stack([x, x]))
    assert torch.equal(rows, (x + 1)[None])
    assert rows.data_ptr() == places[0]
    assert len({t.untyped_storage().data_ptr() for t in (one, rows, other)} | {places[1]}) == 4
    assert all(t.numel() == 0 for t in empty)


def test_weights_are_cast_together():
    weights = [nn.Parameter(torch.randn(*shape, device=DEVICE)) for shape in [(4, 3), (5,), (2, 2)]]
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    @torch.compile(fullgraph=True, backend=backend)
    def run():
        copies = LowPrecisionCopies(weights[:2], torch.bfloat16)
        return [copies.find(weight) for weight in reversed(weights)]

    none, *found = run()
    assert none is None
    for weight, cast in zip(reversed(weights[:2]), found, strict=True):
        assert torch.equal(cast, weight.detach().bfloat16())
    operators = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert sum("cast_together" in name for name in operators) == 1
    assert not any(name.endswith("to") for name in operators)


def test_operators_are_well_formed():
    """Shapes, strides and gradients as torch.library wants them."""
    conv, norm = nn.Conv2d(6, 8, 3, bias=False).to(DEVICE), nn.BatchNorm2d(8).to(DEVICE)
    running = copy.deepcopy((norm.running_mean, norm.running_var))
    x, low = last(2, 6, 5, 7), conv.weight.detach()
    parameters = conv.weight, norm.weight, norm.bias, low, *running
    geometry = triton.convolution_norm_op.geometry_of(conv)
    for module in ("resize_op", "casts_op", "pool_op"):  # first used, it registers its operators
        getattr(triton, module)
    operators = torch.ops.swin_backbone
    check = torch.library.opcheck
    check(operators.convolution_norm.default, (x, *parameters, geometry, 1e-5, 0.1, True))
    check(operators.add_resized.default, (last(2, 4, 6, 8), last(2, 4, 3, 4), False))
    check(operators.concatenate_resized.default, ([last(2, 4, 6, 8), x], [6, 8], False))
    check(operators.cast_together.default, ([conv.weight.detach()], torch.float16))
    check(operators.adaptive_pool.default, (x.detach(), [2, 3]))
