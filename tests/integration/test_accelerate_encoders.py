"""Other libraries' Swin Transformers, accelerated: the same numbers, and the same model.

Both ways are float32, with sums in another order: 1e-5 relative to a tensor's norm (gradients of a
bias table sum terms that nearly cancel: all gradients together are compared, and each with a
hundred times as much). In float64 1e-10, where the coordinates of V2 are the same.
"""

import copy
import re

import pytest
import torch
from helpers.errors import relative_error
from helpers.models_with_swin import IMAGE, alone, make_case, make_torchvision, maps_of
from helpers.outputs_of_models import MODELS, SIZES, outputs_of, sizes_of
from helpers.peers import PAIRS, PEERS, import_peft, make_theirs, randomise
from helpers.swin_like_the_original import Block, KnowsItsMap, V2Block
from torch import nn

import swin_backbone
from swin_backbone.acceleration.swin import halves
from swin_backbone.ops import dispatch

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
#: Models and the sizes of images that they take; filled up, one size will do.
TAKEN = [
    pytest.param(name, size, marks=pytest.mark.slow if size == SIZES[1] else [])
    for name in MODELS
    for size in sizes_of(name)
]
#: Names of classes of blocks.
BLOCK = re.compile("Block|Layer$|Hotter|KnowsItsMap|Scaled")


def pair(model):
    """The model as it is, and an accelerated copy."""
    fast = copy.deepcopy(model)
    return model, fast, swin_backbone.accelerate(fast)


def differentiate(run, model, images):
    """Maps, and the gradients of all parameters that have one, and of the images."""
    images = images.clone().requires_grad_()
    model.zero_grad()
    torch.manual_seed(0)  # drop path draws the same
    maps = run(model, images)
    generator = torch.Generator().manual_seed(1)
    sum((m * torch.randn(m.shape, generator=generator)).sum() for m in maps).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return [m.detach() for m in maps], {**found, "images": images.grad}


def assert_same(run, model, fast, images):
    tolerance = TOLERANCES[images.dtype]
    maps, gradients = differentiate(run, model, images)
    own, own_gradients = differentiate(run, fast, images)
    assert len(maps) == len(own) > 0
    for a, b in zip(own, maps, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert relative_error(a, b) <= tolerance
    assert own_gradients.keys() == gradients.keys()
    flat = [torch.cat([g.flatten() for g in both.values()]) for both in (own_gradients, gradients)]
    assert relative_error(*flat) <= tolerance
    for name, gradient in gradients.items():
        error = (own_gradients[name] - gradient).norm() / (gradient.norm() + 1e-3 * flat[1].norm())
        assert error <= 100 * tolerance, name


def operations(run, *arguments):
    """Names of the operations of this project that ran."""
    decisions = []
    with torch.no_grad(), dispatch.listening(decisions.append):
        run(*arguments)
    return [decision.operation for decision in decisions]


def blocks(report):
    return [row for row in report.rows if BLOCK.search(row.kind)]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_encoders_compute_the_same(name, version, size, dtype):
    if name == "mmpretrain" and min(size) < 64:
        size = (max(size[0], 64), max(size[1], 64))  # it refuses maps smaller than a window
    model, fast, report = pair(make_theirs(name, version, image_size=size).to(dtype))
    assert [row.what for row in blocks(report)] == [blocks(report)[0].what] != [""]
    assert len(blocks(report)[0].modules) == 4
    images = torch.randn(2, 3, *size, dtype=dtype)
    run = PEERS[name].maps
    assert_same(run, model, fast, images)
    assert not operations(run, model, images)
    attentions = [o for o in operations(run, fast, images) if o == "attention"]
    assert len(attentions) == 4


@pytest.mark.parametrize("pretrained", [None, (8, 3)])
@pytest.mark.parametrize("name", ["timm", "torchvision", "transformers", "mmpretrain"])
def test_fused_halves_of_v2_get_the_same_parameters(monkeypatch, name, pretrained):
    """As on a GPU, but by the composition that defines the fused halves."""
    if pretrained is not None and name == "torchvision":
        pytest.skip("it has no windows of pretraining")
    monkeypatch.setattr(halves, "is_fused", lambda *_, **__: True)
    model, fast, _ = pair(make_theirs(name, "v2", pretrained=pretrained))
    images, run = torch.randn(4, 3, 64, 64), PEERS[name].maps
    assert_same(run, model, fast, images)
    found = operations(run, fast, images)
    assert found.count("MLP branch") == 4
    assert found.count("attention branch") == (4 if name != "mmpretrain" else 0)


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_compute_the_same(name):
    model, _ = make_case(name)
    model, fast, report = pair(model)
    assert not [row for row in blocks(report) if row.reason]
    assert sum(len(row.modules) for row in blocks(report)) == 6
    images = torch.randn(2, 3, IMAGE, IMAGE)
    assert_same(maps_of, model, fast, images)
    assert operations(maps_of, fast, images).count("attention") == 6


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("name", "size"), TAKEN, ids=str)
def test_whole_models_give_the_same(name, size, dtype):
    """Logits, masks, boxes, and the gradients of all parameters.

    In what lies around an encoder a rounding may decide: ReLUs, the best proposals, masks of
    attention, which pixels are beside a point. In float32 one of three draws has to be free of it.
    """
    draws = torch.randn(3 if dtype == torch.float32 else 1, 2, 3, *size, dtype=dtype)
    model, _ = make_case(name)
    model, fast, _ = pair(model.to(dtype))
    run = outputs_of(name)
    for number, images in enumerate(draws, 1):
        try:
            return assert_same(run, model, fast, images)
        except AssertionError:
            if number == len(draws):
                raise


def test_models_that_resemble_a_swin_have_its_layers():
    """Super-resolution, and spectrograms."""
    import transformers

    model = alone("Swin2SRModel", "Swin2SR").double().eval()
    randomise(model)
    model, fast, report = pair(model)
    assert [len(row.modules) for row in blocks(report) if row.what] == [6]
    images = torch.randn(1, 3, 16, 24, dtype=torch.float64)
    assert_same(lambda m, x: [m(x).last_hidden_state], model, fast, images)
    config = transformers.ClapAudioConfig(
        spec_size=64, num_mel_bins=16, window_size=2, patch_embeds_hidden_size=8,
        depths=[2, 2, 1, 1], num_attention_heads=[1, 2, 4, 8], hidden_size=64, num_classes=3,
    )  # fmt: skip
    report = swin_backbone.accelerate(transformers.ClapAudioModel(config))
    assert [len(row.modules) for row in blocks(report) if row.what] == [6]


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_the_model_stays_what_it_is(name, version):
    model = make_theirs(name, version)
    before = {key: (id(tensor), tensor.clone()) for key, tensor in tensors(model)}
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = PEERS[name].maps(model, images)
        report = swin_backbone.accelerate(model)
        during = PEERS[name].maps(model, images)
        assert list(model.state_dict()) == list(state)
        again = swin_backbone.accelerate(model)
        assert {row.reason for row in blocks(again)} == {"its forward was replaced"}
        report.revert()
        after = PEERS[name].maps(model, images)
    assert [key for key, _ in tensors(model)] == list(before)
    assert all(id(tensor) == before[key][0] for key, tensor in tensors(model))
    assert all(torch.equal(tensor, before[key][1]) for key, tensor in tensors(model))
    assert [type(module) for module in model.modules()] == classes
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(map(torch.equal, maps, after))
    assert all(relative_error(a, b) <= 1e-5 for a, b in zip(during, maps, strict=True))


def tensors(model):
    return [*model.named_parameters(), *model.named_buffers()]


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_a_training_step_gives_the_same_weights(name, version):
    """With drop path, from the same random numbers."""
    model = make_theirs(name, version)
    for module in model.modules():
        for attribute in ("drop_prob", "p"):
            if "DropPath" in type(module).__name__ or type(module).__name__ == "StochasticDepth":
                setattr(module, attribute, 0.3)
    model, fast, _ = pair(model)
    images, weights = torch.randn(4, 3, 64, 64), []
    for one in (model, fast):
        one.train()
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3)
        torch.manual_seed(0)
        sum(m.square().sum() for m in PEERS[name].maps(one, images)).backward()
        numbers = torch.rand(1)  # as many were drawn
        optimizer.step()
        weights.append([numbers, *(p.detach() for p in one.parameters())])
    for a, b in zip(*weights, strict=True):
        # Adam's first step is the gradient's sign: numbers whose gradient is nothing may differ.
        assert ((a - b).abs() > 1e-6).float().mean() <= 0.01 or a.numel() < 200


@pytest.mark.parametrize("rate", ["attention_probs_dropout_prob", "hidden_dropout_prob"])
def test_dropout_of_the_library_drops_at_its_rate(rate):
    """What is dropped is another draw, so averages are compared."""
    model = alone("SwinModel", **{rate: 0.5})
    randomise(model)
    model, fast, _ = pair(model.train())
    images = torch.randn(1, 3, IMAGE, IMAGE).expand(400, -1, -1, -1)
    with torch.no_grad():
        ours, theirs = (m.embeddings(images)[0] * 0 + 1 for m in (model, fast))
        layers = [m.encoder.layers[0].blocks[0] for m in (fast, model)]
        ours, theirs = (layer(ours, (16, 16), always_partition=True)[0] for layer in layers)
    spread = theirs.std(0)
    assert spread.max() > 0
    assert torch.allclose(ours.std(0), spread, rtol=0.5, atol=0.1 * spread.max())
    assert (ours.mean(0) - theirs.mean(0)).abs().max() < spread.max() * 0.4
    assert operations(lambda: layers[0](images.new_ones(1, 256, 8), (16, 16)))


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_hooks_inside_a_block_see_what_they_saw(name, version):
    model, fast, _ = pair(make_theirs(name, version))
    images, seen = torch.randn(1, 3, 64, 64), []
    for one in (model, fast):
        own = []
        for module in one.modules():
            if type(module) in (nn.LayerNorm, nn.Linear, nn.GELU, nn.Softmax):
                module.register_forward_hook(lambda m, i, o, own=own: own.append(o.shape))
        PEERS[name].maps(one, images)
        seen.append(own)
    assert seen[0] == seen[1] != []


def test_hidden_states_and_attentions():
    for kind in ("Swin", "Swinv2", "MaskFormerSwin", "DonutSwin"):
        model = alone(f"{kind}Model", kind).eval()
        randomise(model)
        model, fast, _ = pair(model)
        images = torch.randn(1, 3, IMAGE, IMAGE)
        flags = {"output_hidden_states": True, "output_attentions": True}
        with torch.no_grad():
            expected, found = (one(images, **flags) for one in (model, fast))
        assert list(expected) == list(found)
        for name in ("hidden_states", "attentions", "reshaped_hidden_states"):
            torch.testing.assert_close(found.get(name), expected.get(name), atol=1e-5, rtol=1e-4)


def test_eager_attention_is_left_alone():
    report = swin_backbone.accelerate(alone("SwinModel", attn_implementation="eager"))
    assert {row.reason for row in blocks(report)} == {
        "its attn_implementation is 'eager', not 'sdpa'"
    }
    model, fast, _ = pair(alone("SwinModel").eval())
    for one in (model, fast):
        one.set_attn_implementation("eager")
    images = torch.randn(1, 3, IMAGE, IMAGE)
    expected, found = (one(images, output_attentions=True).attentions for one in (model, fast))
    assert all(map(torch.equal, expected, found))


def test_small_images_change_the_windows_as_they_do_in_transformers():
    model, fast, _ = pair(alone("DonutSwinModel", "DonutSwin").eval())
    for side in (64, 16, 64):  # windows of the last stages are smaller from then on
        images = torch.randn(1, 3, side, side)
        results = []
        for one in (model, fast):
            try:
                results.append(one(images).last_hidden_state)
            except RuntimeError as error:
                results.append(str(error))
        if isinstance(results[0], str):
            assert results[0] == results[1]
        else:
            assert torch.allclose(*results, atol=1e-5)
        windows = [
            [block.window_size for layer in one.encoder.layers for block in layer.blocks]
            for one in (model, fast)
        ]
        assert windows[0] == windows[1]


@pytest.mark.parametrize("kind", ["Swin", "DonutSwin"])  # V2 has no always_partition
@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("side", [3, 4, 7])
def test_small_maps_and_always_partition(kind, always, side):
    """Maps that a shifted window of 4 covers, just covers and does not; it shrinks for good."""
    model = alone(f"{kind}Model", kind, window_size=4, depths=[2], num_heads=[2]).double().eval()
    randomise(model)
    model, fast, _ = pair(model)
    layers = [one.encoder.layers[0].blocks[1] for one in (model, fast)]
    tokens = torch.randn(2, side * 5, 8, dtype=torch.float64)

    def run(layer, x):
        return [layer(x, (side, 5), always_partition=always)[0]]

    results = []
    for layer in layers:
        try:
            results.append(run(layer, tokens)[0])
        except RuntimeError as error:  # windows of 3 want another table than V1 has
            results.append(str(error))
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        assert_same(run, *layers, tokens)
    sizes = [(layer.window_size, layer.shift_size) for layer in layers]
    assert sizes[0] == sizes[1] == ((min(side, 4), 2 if side > 4 else 0) if not always else (4, 2))


@pytest.mark.parametrize("kind", ["Swin", "Swinv2", "DonutSwin", "MaskFormerSwin"])
def test_gradient_checkpointing(kind):
    """In float64: V2's gradients are so large as it starts that float32 is 3e-5 off itself."""
    model, fast, _ = pair(alone(f"{kind}Model", kind).double().train())
    for one in (model, fast):
        one.gradient_checkpointing_enable()
    images = torch.randn(2, 3, IMAGE, IMAGE, dtype=torch.float64)
    assert_same(lambda m, x: [m(x).last_hidden_state], model, fast, images)


@pytest.mark.parametrize("package", ["mmseg", "mmdet"])
def test_checkpointed_blocks_of_openmmlab(package):
    model = make_theirs(package, "v1")
    model.train()  # returns None
    for module in model.modules():
        if hasattr(module, "with_cp"):
            module.with_cp = True
    model, fast, _ = pair(model)
    assert_same(lambda m, x: list(m(x)), model, fast, torch.randn(2, 3, 72, 40))


@pytest.mark.parametrize("kind", ["Swin", "Swinv2", "DonutSwin", "MaskFormerSwin"])
def test_files_of_transformers(kind, tmp_path):
    model = alone(f"{kind}Model", kind).eval()
    randomise(model)
    model, fast, _ = pair(model)
    fast.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert list(again.state_dict()) == list(model.state_dict())
    swin_backbone.accelerate(again)
    images = torch.randn(1, 3, IMAGE, IMAGE)
    outputs = [one(images).last_hidden_state for one in (model, fast, again)]
    assert relative_error(outputs[1], outputs[0]) <= 1e-5
    # The file's tensors lie at other multiples of bytes, of which products may round otherwise.
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    assert relative_error(outputs[2], outputs[1]) <= 1e-5


#: Among them layers of which a class reads the weight alone, so that an adapter does nothing: proj
#: of torchvision, qkv of timm's and mmpretrain's V2.
ADAPTED = {
    "SwinModel": ["q_proj", "v_proj"],
    "Swinv2Model": ["query", "value", "dense"],
    "DonutSwinModel": ["query", "dense"],
    "timm": ["qkv", "fc1"],
    "timm, V2": ["qkv", "proj"],
    "torchvision": ["proj", "mlp.0"],
    "mmseg": ["qkv", "proj"],
    "mmpretrain, V2": ["qkv", "proj"],
}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", ADAPTED)
def test_adapters(name, before):
    """LoRA, put in before or after: its layers are called, and the rest stays fast."""
    peft = import_peft()
    config = peft.LoraConfig(target_modules=ADAPTED[name], r=2, init_lora_weights=False)
    model, _ = make_case(name)
    fast = copy.deepcopy(model)
    if before:
        swin_backbone.accelerate(fast)
    model, fast = (peft.inject_adapter_in_model(config, one) for one in (model, fast))
    fast.load_state_dict(model.state_dict(), strict=False)
    if not before:
        report = swin_backbone.accelerate(fast)
        assert not [row for row in blocks(report) if row.reason]
    assert_same(maps_of, model, fast, torch.randn(1, 3, IMAGE, IMAGE))
    learns = [n for n, p in fast.named_parameters() if p.requires_grad]
    assert learns
    assert all("lora" in n for n in learns)


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_learn(name):
    """Steps of an optimizer, in float64: the same adapters, and other weights as they were."""
    peft = import_peft()
    config = peft.LoraConfig(target_modules=ADAPTED[name], r=2, init_lora_weights=False)
    model = peft.inject_adapter_in_model(config, make_case(name)[0]).double()
    model, fast, _ = pair(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    images = torch.randn(2, 3, IMAGE, IMAGE, dtype=torch.float64)
    for one in (model, fast):
        optimizer = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            sum(m.square().mean() for m in maps_of(one, images)).backward()
            optimizer.step()
    learnt = [n for n, p in model.named_parameters() if p.grad is not None]
    assert learnt
    assert all("lora" in n for n in learnt)
    parameters = dict(model.named_parameters())
    for key, parameter in fast.named_parameters():
        assert torch.equal(parameter, before[key]) == (key not in learnt), key
        torch.testing.assert_close(parameter, parameters[key], rtol=1e-9, atol=1e-9, msg=key)


def test_a_class_that_computes_something_else_is_left_alone():
    from torchvision.models import swin_transformer as swin

    class Scaled(swin.SwinTransformerBlock):
        def forward(self, x):
            return 2 * super().forward(x)

    block = Scaled(8, 2, [2, 2], [0, 0])
    (row,) = blocks(swin_backbone.accelerate(block))
    assert row.reason == "Scaled has a forward of its own"


@pytest.mark.parametrize("is_known", [False, True])
def test_models_without_weights_are_left_alone(is_known):
    """Whether or not a block of the kind was tried before."""
    if is_known:
        swin_backbone.accelerate(Block(8, 2, 3, 0, 6))
    with torch.device("meta"):
        block = Block(8, 2, 3, 0, 6)
    (row,) = blocks(swin_backbone.accelerate(block))
    assert row.reason == (
        "it cannot be tried on the meta device: accelerate when its weights are there"
    )


def test_random_numbers_stay_as_they_were():
    model = make_torchvision("v2")
    state = torch.get_rng_state()
    swin_backbone.accelerate(model)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["SwinBackbone", "DonutSwinModel", "timm", "torchvision, V2"])
@pytest.mark.parametrize("first", [False, True])
def test_before_or_after_a_change_of_dtype(name, first):
    model, _ = make_case(name)
    fast = copy.deepcopy(model)
    if first:
        swin_backbone.accelerate(fast)
    model, fast = model.bfloat16(), fast.bfloat16()
    if not first:
        swin_backbone.accelerate(fast)
    images = torch.randn(2, 3, IMAGE, IMAGE)
    exact, _ = differentiate(maps_of, copy.deepcopy(model).double(), images.double())
    with torch.no_grad():
        errors = [
            max(
                relative_error(a, b)
                for a, b in zip(maps_of(m, images.bfloat16()), exact, strict=True)
            )
            for m in (fast, model)
        ]
    assert operations(maps_of, fast, images.bfloat16())
    assert errors[0] <= 1.5 * errors[1]


def test_a_copy_and_an_average_of_models():
    model, fast, _ = pair(make_torchvision("v1").eval())
    average = torch.optim.swa_utils.AveragedModel(fast)
    images = torch.randn(1, 3, IMAGE, IMAGE)
    with torch.no_grad():
        fast.features[0][0].weight.zero_()
        assert torch.allclose(average(images), model(images), atol=1e-5)
    assert operations(average, images)


def test_graphs_of_an_accelerated_model():
    from torchvision.models.feature_extraction import create_feature_extractor

    model, fast, _ = pair(make_torchvision("v1").eval())
    images = torch.randn(1, 3, IMAGE, IMAGE)
    graph = create_feature_extractor(fast, ["features.7"])
    exported = torch.export.export(fast, (images,)).module()
    traced = torch.jit.trace(fast, images, check_trace=False)
    with torch.no_grad():
        expected = model(images)
        for one in (exported, traced):
            assert torch.allclose(one(images), expected, atol=1e-5)
        features = create_feature_extractor(model, ["features.7"])(images)
        assert torch.allclose(graph(images)["features.7"], features["features.7"], atol=1e-5)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("kind", [Block, V2Block, KnowsItsMap])
def test_copies_of_the_original_are_known_by_their_structure(kind, shift):
    block = kind(8, 2, 3, shift, 6).double()
    randomise(block)
    block, fast, report = pair(block)
    assert [row.reason for row in blocks(report)] == [""]
    sizes = [(6, 6)] if kind is KnowsItsMap else [(6, 6), (7, 4), (2, 5)]
    for size in sizes:
        x = torch.randn(2, size[0] * size[1], 8, dtype=torch.float64)
        assert_same(lambda m, x, size=size: [m.run(x, size)], block, fast, x)


def test_a_copy_that_computes_something_else_is_left_alone():
    class Hotter(Block):
        def attend(self, x, mask):
            return super().attend(1.01 * x, mask)

    (row,) = blocks(swin_backbone.accelerate(Hotter(8, 2, 3, 1, 6)))
    assert row.reason == "its class computes something else"


def test_a_mismatch_of_dtypes_is_the_librarys_error():
    fast = make_torchvision("v1").bfloat16()
    swin_backbone.accelerate(fast)
    block = fast.features[1][0]
    with pytest.raises(RuntimeError):
        block(torch.randn(1, 4, 4, 8))
