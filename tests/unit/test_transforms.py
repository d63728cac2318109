"""Derivatives of every kind, counters of operations and exporters: they take plain operators."""

import pytest
import torch
from helpers.by_modules import calling_modules
from packaging.version import Version
from torch import nn
from torch.export import Dim
from torch.func import functional_call, grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from swin_backbone import SwinBackbone
from swin_backbone.ops import shifted_window_attention

#: Whether ``torch.onnx.export`` takes the exporter of torch.export without being told.
NEW_EXPORTER = Version(torch.__version__) >= Version("2.9")
BACKENDS = ["auto", "reference", "sdpa", "cpu"]


def make(version, **options):
    sizes = {"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2)}
    sizes |= {"out_indices": (0, 1), "window_size": 4, "mlp_ratio": 2, "drop_path_rate": 0.0}
    torch.manual_seed(0)
    model = SwinBackbone(**(sizes | {"version": version} | options))
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def loss_of(model, parameters, images, **options):
    maps = functional_call(model, parameters, (images,), options)
    return sum(features.square().mean() for features in maps)


def penalty_gradients(model, images, **options):
    """Of the squared norm of the images' gradient, for the images and every parameter."""
    images = images.clone().requires_grad_()
    learned = [images, *(p for p in model.parameters() if p.requires_grad)]
    loss = loss_of(model, {}, images, **options)
    (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), learned, allow_unused=True)


def assert_alike(actual, expected, bound=1e-8):
    for a, b in zip(actual, expected, strict=True):
        a, b = (torch.zeros(1) if value is None else value for value in (a, b))
        assert (a - b).norm() <= bound * b.norm() + 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("option", ["plain", "mask_padding", "packed"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_gradients_of_gradients(version, option, frozen, dtype):
    options = {} if option == "plain" else {option: True}
    call = {} if option == "plain" else {"valid_sizes": torch.tensor([[18, 30], [13, 22]])}
    fast, exact = (
        make(version, backend=b, **options).to(dtype).requires_grad_(not frozen)
        for b in ("auto", "reference")
    )
    images = draw(2, 3, 18, 30).to(dtype)
    bound = 1e-8 if dtype == torch.float64 else 1e-3  # sums of rounded terms in other orders
    actual, expected = (penalty_gradients(model, images, **call) for model in (fast, exact))
    assert actual[0].norm() > 0
    assert_alike(actual[:1], expected[:1], bound)
    assert_alike(
        [torch.cat([g.flatten() for g in actual if g is not None])],
        [torch.cat([g.flatten() for g in expected if g is not None])],
        bound,
    )


def test_gradients_of_gradients_with_dropout():
    """By differences: the same numbers are drawn each time."""
    model = make("v1", attn_drop_rate=0.3, drop_path_rate=0.2, depths=(2,), num_heads=(1,),
                 out_indices=(0,)).double().train()  # fmt: skip
    image, direction = draw(2, 3, 18, 22).double(), draw(3, 18, 22).double()

    def gradient(step):
        torch.manual_seed(5)
        images = (image + step * direction).requires_grad_()
        (g,) = torch.autograd.grad(loss_of(model, {}, images), images, create_graph=True)
        return images, g

    images, g = gradient(0.0)
    (product,) = torch.autograd.grad((g * direction).sum(), images)
    step = 1e-5
    differences = (gradient(step)[1] - gradient(-step)[1]) / (2 * step)
    assert_alike([product], [differences.detach()], 1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_transforms(version, training):
    model = make(version).double().train(training)
    images, tangent = draw(2, 3, 18, 30).double(), draw(2, 3, 30, 18).double().transpose(2, 3)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, images):
        return loss_of(model, parameters, images)

    own = torch.autograd.grad(loss_of(model, {}, images), list(model.parameters()))
    assert_alike(grad(loss)(parameters, images).values(), own)

    alone = [grad(loss)(parameters, image[None]) for image in images]
    each = vmap(grad(lambda p, image: loss(p, image[None])), (None, 0))(parameters, images)
    for name, gradients in each.items():
        assert_alike(gradients, [gradient[name] for gradient in alone])

    def maps(images):
        return functional_call(model, parameters, (images,))

    for level, features in enumerate(vmap(lambda image: maps(image[None]))(images)):
        assert_alike([features[:, 0]], [maps(images)[level]])

    step = 1e-6
    _, tangents = jvp(maps, (images,), (tangent,))
    ahead, behind = maps(images + step * tangent), maps(images - step * tangent)
    assert_alike(tangents, [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)], 1e-5)
    _, product = jvp(lambda x: grad(loss, 1)(parameters, x), (images,), (tangent,))
    ahead, behind = (grad(loss, 1)(parameters, images + s * tangent) for s in (step, -step))
    assert_alike([product], [(ahead - behind) / (2 * step)], 1e-5)


def test_a_transform_leaves_nothing_behind():
    """Probabilities of stochastic depth are remembered: not those of a transform."""
    model = make("v1", drop_path_rate=0.123).train()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    images = draw(2, 3, 16, 16)
    grad(lambda p: loss_of(model, p, images))(parameters)
    vmap(lambda x: model(x[None])[0], randomness="different")(images)
    loss_of(model, {}, images).backward()


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_backend_that_has_no_transforms_names_the_way_out(backend):
    if backend == "triton":
        pytest.importorskip("triton", reason="triton is not installed")
    model = make("v1", backend=backend, embed_dims=32)
    device = "cuda" if torch.cuda.is_available() and backend == "triton" else "cpu"
    model, images = model.to(device), draw(1, 3, 16, 16).to(device)
    with pytest.raises(ValueError, match="backend='reference' or 'auto'"):
        vmap(lambda x: model(x[None])[0])(images)


@pytest.mark.parametrize("grads", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_counters_count_the_same_with_every_backend(version, grads):
    totals = set()
    for backend in [*BACKENDS, "triton"]:
        if backend == "triton":
            pytest.importorskip("triton", reason="triton is not installed")
        model, images = make(version, backend=backend), draw(1, 3, 18, 30)
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(grads):
            maps = model(images)
            if grads:
                sum(features.sum() for features in maps).backward()
        totals.add(counter.get_total_flops())
    linear = sum(  # of the first stage, without attention's own products
        2 * 5 * 8 * module.weight.numel()
        for module in model.stages[0].blocks.modules()
        if isinstance(module, nn.Linear) and module.in_features != 2 and module.out_features > 1
    )
    assert len(totals) == 1, totals
    assert totals.pop() > linear


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_plain_export_serves_sizes_that_it_did_not_see(version):
    """Made with a size that needs no padding anywhere, which it must not take for granted."""
    model = make(version)
    free = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
    program = torch.export.export(model, (draw(2, 3, 64, 64),), dynamic_shapes=free).module()
    for size in ((1, 3, 50, 33), (3, 3, 64, 96)):
        images = draw(*size)
        with torch.no_grad(), calling_modules():
            expected = model(images)
        for a, b in zip(program(images), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_plain_onnx_export(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model, images = make("v1", depths=(1,), num_heads=(1,), out_indices=(0,)), draw(1, 3, 14, 9)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (images,), path, **({} if NEW_EXPORTER else {"dynamo": True}))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(actual), model(images)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_second_derivatives_of_kernels_are_right_or_an_error(version):
    """The norms, embedding and merging of a GPU have them with any backend, attention has not."""
    options = {"embed_dims": 32, "mlp_ratio": 4}
    images = draw(2, 3, 26, 30).cuda()
    matmul = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True  # without it there are fewer kernels
        exact = penalty_gradients(
            make(version, backend="reference", **options).double(), images.double().cpu()
        )
        actual = penalty_gradients(make(version, backend="reference", **options).cuda(), images)
        flat = [
            torch.cat([g.double().cpu().flatten() for g in gradients if g is not None])
            for gradients in (actual, exact)
        ]
        assert_alike(flat[:1], flat[1:], 2e-2)  # 10 bits of mantissa, through a network twice
        with pytest.raises(RuntimeError, match="backend='reference'"):
            penalty_gradients(make(version, **options).cuda(), images)
        model = make(version, **options).cuda()
        maps = vmap(lambda x: model(x[None])[0])(images)
        assert maps.isfinite().all()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul


def test_kernels_behind_no_backend_have_second_derivatives():
    """The same functions in Triton's interpreter, or on a GPU, each by itself."""
    pytest.importorskip("triton", reason="triton is not installed")
    from swin_backbone.ops import triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = torch.tensor([[3, 5], [2, 4]], dtype=torch.int32, device=device)
    generator = torch.Generator().manual_seed(2)

    def learned(*shape):
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    x, image = learned(2, 5, 6, 16), learned(2, 3, 9, 14)
    norm, wide, weight = (learned(16), learned(16)), (learned(64), learned(64)), learned(32, 64)
    patches = learned(16, 48), learned(16)
    low = triton.patch_merging_op.copy_by_neighbour(weight, torch.float32)
    calls = [
        (triton.norm_op.layer_norm, (x, *norm, 1e-5, False, torch.float32, sizes)),
        (triton.norm_op.layer_norm, (x, *wide, 1e-5, True, torch.float32, sizes)),
        (
            lambda *inputs: sum(triton.norm_op.norm_beside(*inputs)),
            (x, *norm, 1e-5, torch.float32, sizes),
        ),
        (triton.patch_merging_op.merge_reduce, (x, *wide, weight, low, sizes, 1e-5, False)),
        (
            triton.patch_embed_op.patch_embed,
            (image, *patches, *norm, patches[0].detach(), 1e-5, [4, 4], torch.float32),
        ),
    ]
    for function, inputs in calls:
        wanted = [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
        first = torch.autograd.grad(function(*inputs).square().sum(), wanted)
        again = torch.autograd.grad(function(*inputs).square().sum(), wanted, create_graph=True)
        # tf32 is the products' on a GPU; the interpreter's are float32's
        assert_alike(again, first, 1e-2 if device == "cuda" else 1e-4)
        second = torch.autograd.grad(sum(g.square().sum() for g in again), wanted)
        assert all(g.isfinite().all() and g.norm() > 0 for g in second)


def test_attention_kernels_say_what_has_second_derivatives():
    pytest.importorskip("triton", reason="triton is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    qkv, table = (torch.randn(*s, device=device) for s in ((1, 4, 4, 96), (49, 2)))
    options = {"num_heads": 2, "window_size": (4, 4), "backend": "triton"}
    qkv.requires_grad_()
    attended = shifted_window_attention(qkv, table, **options)
    # Of a sum: its gradient is a constant, and PyTorch's own guard lets these pass.
    (gradient,) = torch.autograd.grad(attended.sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        gradient.square().sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        torch.autograd.grad(gradient.square().sum(), qkv)
