"""``init_cfg`` as mmengine takes it: spellings, parts of a file, addresses; and fresh values."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_loading
from torch import nn

import swin_backbone
from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError
from swin_backbone.checkpoints import checkpoint_sources as sources
from swin_backbone.openmmlab import safe_checkpoints

SMALL = {"embed_dims": 8, "depths": (1, 2), "num_heads": (1, 2), "out_indices": (0, 1)}
SMALL |= {"strides": (4, 2), "window_size": 2}


def weights(seed, **options):
    torch.manual_seed(seed)
    model = SwinBackbone(**{**SMALL, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.state_dict()


def below(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def has(model, state):
    found = model.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


@pytest.fixture
def save(tmp_path):
    def save_to(content):
        path = tmp_path / "checkpoint.pth"
        torch.save(content, path)
        return str(path)

    return save_to


SPELLINGS = [
    "Pretrained",
    "PretrainedInit",
    "mmengine.Pretrained",
    "mmengine.PretrainedInit",
    "mmseg.Pretrained",
    "mmengine.model.PretrainedInit",
    "mmengine.model.weight_init.PretrainedInit",
    PretrainedInit,
]


@pytest.mark.parametrize("inside", ["dict", "list", "config"])
@pytest.mark.parametrize("kind", SPELLINGS, ids=str)
def test_every_spelling_of_mmengine_loads(kind, inside, save):
    state = weights(1)
    init_cfg = {"type": kind, "checkpoint": save(state), "map_location": "cpu"}
    if inside == "list":
        init_cfg = [init_cfg]
    if inside == "config":
        config = Config({"type": "SwinBackbone", **SMALL, "init_cfg": init_cfg})
        model = MODELS.build(config)
    else:
        model = SwinBackbone(**SMALL, init_cfg=init_cfg)
    model.init_weights()
    assert has(model, state)


def test_a_model_around_it_initialises_it(save):
    class Segmentor(BaseModule):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

    state = weights(1)
    init_cfg = {"type": "Pretrained", "checkpoint": save(below("backbone.", state))}
    model = Segmentor(SwinBackbone(**SMALL, init_cfg={**init_cfg, "prefix": "backbone."}))
    model.init_weights()
    assert has(model.backbone, state)


@pytest.mark.parametrize(
    ("init_cfg", "error", "message"),
    [
        ({"type": "Normal", "checkpoint": "x"}, ValueError, "Normal"),
        ({"type": "elsewhere.Pretrained", "checkpoint": "x"}, ValueError, "elsewhere"),
        ({"type": "mmengine.Kaiming", "checkpoint": "x"}, ValueError, "Kaiming"),
        ({"type": "mmengine..Pretrained", "checkpoint": "x"}, ValueError, "mmengine"),
        ({"type": ".Pretrained", "checkpoint": "x"}, ValueError, "Pretrained"),
        ({"type": nn.Linear, "checkpoint": "x"}, ValueError, "Linear"),
        ({"checkpoint": "x"}, ValueError, "Pretrained"),
        ({"type": "Pretrained"}, ValueError, "checkpoint"),
        ({"type": "Pretrained", "checkpoint": ""}, ValueError, "checkpoint"),
        ({"type": "Pretrained", "checkpoint": 3}, TypeError, "checkpoint must be text, got 3"),
        ({"type": "Pretrained", "checkpoint": "x", "prefix": 1}, TypeError, "prefix"),
        ({"type": "Pretrained", "checkpoint": "x", "key": ["a"]}, TypeError, "key"),
        ({"type": "Pretrained", "checkpoint": "x", "override": {}}, ValueError, "override"),
        ("x.pth", TypeError, "init_cfg must be"),
        ([], TypeError, "init_cfg must be"),
        ([{"type": "Pretrained", "checkpoint": "x"}] * 2, TypeError, "init_cfg must be"),
    ],
)
def test_what_is_no_checkpoint_is_named(init_cfg, error, message):
    with pytest.raises(error, match=message):
        SwinBackbone(**SMALL, init_cfg=init_cfg)


def load(save, content, **options):
    model = SwinBackbone(
        **SMALL, init_cfg={"type": "Pretrained", "checkpoint": save(content), **options}
    )
    model.init_weights()
    return model


def test_the_backbone_that_is_asked_for_is_loaded(save):
    student, teacher = weights(1), weights(2)
    content = {"state_dict": below("student.backbone.", student) | below("teacher.net.", teacher)}
    for prefix in ("student", "student.", "student.backbone", "student.backbone."):
        assert has(load(save, content, prefix=prefix), student)
    assert has(load(save, content, prefix="teacher.net."), teacher)
    with pytest.raises(CheckpointError, match=r"student\.backbone\.(.|\n)*teacher\.net\."):
        load(save, content)
    with pytest.raises(CheckpointError, match=r"nothing under prefix 'nobody'"):
        load(save, content, prefix="nobody")


def test_the_state_dict_that_is_asked_for_is_loaded(save):
    plain, averaged = weights(1), weights(2)
    content = {"model": plain, "model_ema": averaged, "epoch": 3}
    assert has(load(save, content), plain)
    assert has(load(save, content, key="model_ema"), averaged)
    with pytest.raises(CheckpointError, match="'teacher'"):
        load(save, content, key="teacher")
    report = load(save, content, key="model_ema").checkpoint_report
    assert set(report.ignored) == {"model", "epoch"}


def test_create_takes_them_too(save):
    student, teacher = weights(1), weights(2)
    path = save(below("student.", student) | below("teacher.", teacher))
    init_cfg = {"type": "Pretrained", "checkpoint": path, "prefix": "teacher"}
    assert has(swin_backbone.create({"type": "SwinBackbone", **SMALL}, init_cfg=init_cfg), teacher)


def test_map_location_says_where_tensors_go(save, monkeypatch):
    seen = []

    def load_from(filename, map_location=None):
        seen.append(map_location)
        return weights(1)

    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    CheckpointLoader.register_scheme("store://", load_from)
    for options in ({}, {"map_location": "cpu"}, {"map_location": torch.device("cpu")}):
        init_cfg = {"type": "Pretrained", "checkpoint": "store://there", **options}
        SwinBackbone(**SMALL, init_cfg=init_cfg).init_weights()
    assert seen == ["cpu", "cpu", torch.device("cpu")]


ADDRESSES = [
    "torchvision://swin_t.imagenet1k_v1",
    "modelzoo://swin_t.imagenet1k_v1",
    "open-mmlab://vgg16_caffe",
    "openmmlab://vgg16_caffe",
    "mmcls://swin_tiny",
    "https://example.org/swin.pth",
    "http://example.org/swin.pth?download=1",
    "s3://bucket/swin.pth",
    "cluster:s3://bucket/swin.pth",
    "petrel://bucket/swin.pth",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_kind_of_address_of_mmengine_loads(address, save, tmp_path, monkeypatch):
    if address.startswith(("torchvision", "modelzoo")):
        pytest.importorskip("torchvision", reason="torchvision is not installed")
    state, fetched = weights(1), []
    save(below("backbone.", state))

    def download(url):
        fetched.append(url)
        return tmp_path / "checkpoint.pth"

    class Store:
        def get(self, filename):
            fetched.append(filename)
            return (tmp_path / "checkpoint.pth").read_bytes()

    monkeypatch.setattr(sources, "download", download)
    monkeypatch.setattr(safe_checkpoints, "get_file_backend", lambda *_, **__: Store())
    model = SwinBackbone(**SMALL, init_cfg={"type": "Pretrained", "checkpoint": address})
    model.init_weights()
    assert has(model, state)
    assert len(fetched) == 1
    if "://" in address and address.split(":")[0] in ("torchvision", "modelzoo", "mmcls"):
        assert "swin" in fetched[0]
        assert fetched[0].startswith("https://")


@pytest.mark.parametrize("kind", ["torchvision", "open-mmlab", "mmcls"])
def test_a_name_that_no_catalogue_has_is_an_error(kind):
    if kind == "torchvision":
        pytest.importorskip("torchvision", reason="torchvision is not installed")
    init_cfg = {"type": "Pretrained", "checkpoint": f"{kind}://swin_nowhere"}
    model = SwinBackbone(**SMALL, init_cfg=init_cfg)
    with pytest.raises(CheckpointError, match=f"catalogue has no 'swin_nowhere'.*{kind}://"):
        model.init_weights()


def test_catalogues_read_with_our_reader():
    """mmengine's own would unpickle whatever there is."""
    assert mmengine_loading.load_from_http is safe_checkpoints.load_from_path


@pytest.mark.parametrize("name", ["with space.pth", "plain.pth"])
def test_file_addresses_are_paths(name, tmp_path):
    state = weights(1)
    torch.save(state, tmp_path / name)
    for address in ((tmp_path / name).as_uri(), f"file://{tmp_path / name}"):
        model = SwinBackbone(**SMALL, init_cfg={"type": "Pretrained", "checkpoint": address})
        model.init_weights()
        assert has(model, state)


GRID = [
    {"version": "v1"},
    {"version": "v1", "use_abs_pos_embed": True, "pretrain_img_size": 16},
    {"version": "v1", "qkv_bias": False, "output_norms": False},
    {"version": "v2"},
    {"version": "v2", "extra_norm_every_n_blocks": 1, "use_abs_pos_embed": True},
    {"version": "v2", "qkv_bias": False, "frozen_stages": 1},
]


def on_no_device(**options):
    """A backbone that was made on the meta device and moved to memory of any content."""
    with torch.device("meta"):
        model = SwinBackbone(**SMALL, **options)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    return model


@pytest.mark.parametrize("options", GRID, ids=str)
def test_everything_is_filled(options):
    model = on_no_device(**options)
    model.init_weights()
    torch.manual_seed(0)
    usual = SwinBackbone(**SMALL, **options)
    usual.init_weights()
    assert len(list(model.parameters())) == len(list(usual.parameters()))
    for (name, found), expected in zip(model.named_parameters(), usual.parameters(), strict=True):
        assert found.isfinite().all(), name
        assert found.requires_grad == expected.requires_grad, name
        # Of the same distribution: of a few numbers only the mean is seen, within five times what
        # it differs by; of constants it differs by nothing.
        spread = expected.std(correction=0)
        if expected.numel() > 20 and spread > 0:
            assert 0.5 < found.std() / expected.std() < 2.0, name
        else:
            bound = 5 * spread * (2 / expected.numel()) ** 0.5
            assert abs(found.mean() - expected.mean()) <= bound + 1e-6, name


@pytest.mark.parametrize("options", GRID, ids=str)
def test_what_a_checkpoint_lacks_is_filled(options, save):
    """The output norms of a classifier's, and a position embedding, which begins at zero."""
    state = weights(1, **options)
    lacking = {k: v for k, v in state.items() if not k.startswith(("norm", "absolute"))}
    model = on_no_device(**options, init_cfg={"type": "Pretrained", "checkpoint": save(lacking)})
    model.init_weights()
    for name, value in model.state_dict().items():
        if name in lacking:
            assert torch.equal(value, lacking[name])
        else:
            fresh = 1.0 if name.endswith("weight") else 0.0
            assert torch.equal(value, torch.full_like(value, fresh)), name
