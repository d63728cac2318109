"""Where checkpoints come from, in which formats, and how tensors of other shapes are fitted."""

from pathlib import Path

import pytest
import torch
from helpers.errors import relative_error
from helpers.peers import make_theirs, ours_like, randomise

from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError, read_checkpoint
from swin_backbone.checkpoints import checkpoint_sources as sources
from swin_backbone.checkpoints.resize_parameters import (
    adapt_input_channels,
    resize_bias_table_log_spaced,
)

SMALL = {"embed_dims": 16, "depths": (1, 2), "num_heads": (1, 2), "out_indices": (0, 1)}
SMALL["window_size"] = 4
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")


def make(**options):
    return SwinBackbone(**{**SMALL, **options}).eval()


def snapshot(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def assert_unchanged(model, before):
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["w.pth", "pytorch_model.bin", "model.safetensors", "no_suffix"])
def test_formats_are_recognised_by_content(name, tmp_path):
    source = make(version="v2")
    randomise(source)
    if name.endswith(("safetensors", "no_suffix")):
        safetensors.save_file(source.state_dict(), tmp_path / name)
    else:
        torch.save(source.state_dict(), tmp_path / name)
    checkpoint = {"type": "Pretrained", "checkpoint": str(tmp_path / name)}
    ours = make(version="v2", init_cfg=checkpoint)
    ours.init_weights()
    assert_unchanged(ours, source.state_dict())


@pytest.mark.parametrize("kept", [9, 200, 0.5, 0.99])
def test_a_truncated_safetensors_file_is_an_error(kept, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.save_file(make().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    ours = make(init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    before = snapshot(ours)
    with pytest.raises(CheckpointError, match=r"model\.safetensors' is truncated"):
        ours.init_weights()
    assert_unchanged(ours, before)


class Hub:
    """Stands for the Hugging Face hub, with some files of some repositories."""

    def __init__(self, folder, **files):
        self.folder, self.files, self.asked = folder, files, []

    def download(self, repository, filename, revision=None):
        from huggingface_hub.errors import EntryNotFoundError

        self.asked.append((repository, filename, revision))
        if filename.replace(".", "_") not in self.files:
            raise EntryNotFoundError(filename)
        path = Path(self.folder) / filename
        self.files[filename.replace(".", "_")](path)
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    module = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    def make_hub(**files):
        hub = Hub(tmp_path, **files)
        monkeypatch.setattr(module, "hf_hub_download", hub.download)
        return hub

    return make_hub


def test_a_repository_of_the_hub(hub):
    theirs = make_theirs("transformers", "v1")
    hub = hub(pytorch_model_bin=lambda path: torch.save(theirs.state_dict(), path))
    init_cfg = {"type": "Pretrained", "checkpoint": "hf-hub:microsoft/swin@main"}
    ours = ours_like("transformers", "v1", init_cfg=init_cfg)
    ours.init_weights()
    assert ours.checkpoint_report.layout == "transformers"
    assert [asked[1:] for asked in hub.asked] == [
        ("model.safetensors", "main"), ("pytorch_model.bin", "main"),
    ]  # fmt: skip
    assert hub.asked[0][0] == "microsoft/swin"


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("swin_tiny_patch4_window7_224.ms_in22k", "timm/swin_tiny_patch4_window7_224.ms_in22k"),
        ("swinv2_tiny_window8_256", "timm/swinv2_tiny_window8_256.ms_in1k"),  # timm's default tag
    ],
)
def test_a_model_of_timm(name, repository, hub):
    pytest.importorskip("timm", reason="timm is not installed")
    state = make().state_dict()
    hub = hub(model_safetensors=lambda path: safetensors.save_file(state, path))
    read = read_checkpoint(f"timm:{name}")
    assert hub.asked == [(repository, "model.safetensors", None)]
    assert read.keys() == state.keys()


def test_what_is_not_on_a_hub_is_named(hub):
    pytest.importorskip("timm", reason="timm is not installed")
    hub()
    with pytest.raises(FileNotFoundError, match=r"'org/name' on the hub has none of model\.safe"):
        read_checkpoint("hf-hub:org/name")
    with pytest.raises(ValueError, match="named org/name, got 'swin'"):
        read_checkpoint("hf-hub:swin")
    with pytest.raises(ValueError, match="timm has no pretrained model 'swin_nano'"):
        read_checkpoint("timm:swin_nano")


def test_without_the_hubs_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        sources.fetch("hf-hub:org/name")


@pytest.mark.parametrize(("old", "new"), [(3, 1), (3, 4), (3, 7), (1, 3), (4, 3)])
def test_another_number_of_input_channels(old, new):
    """A grey image: what a model of three channels sees of it, a model of one sees too."""
    source, target = make(in_channels=old), make(in_channels=new)
    randomise(source)
    target.load_state_dict(source.state_dict())
    how = "summed" if new == 1 else "repeated and scaled"
    text = f"{old} input channels {how} to {new}"
    assert target.checkpoint_report.adapted == {"patch_embed.projection.weight": text}
    assert f"adapted patch_embed.projection.weight: {text}" in str(target.checkpoint_report)
    if new == 1 or new % old == 0:
        grey = torch.randn(1, 1, 33, 40)
        expected = source(grey.expand(-1, old, -1, -1))
        for a, b in zip(target(grey.expand(-1, new, -1, -1)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_repeated_channels_come_in_turn():
    weight = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    adapted = adapt_input_channels(weight, 5).flatten()
    torch.testing.assert_close(adapted, torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0]) * 0.6)


@pytest.mark.parametrize("window", [(12, 12), (3, 3), (9, 5), (7, 8)])
def test_log_spaced_interpolation_is_timms(window):
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    table = torch.randn(169, 3)  # of windows of 7
    shape = ((2 * window[0] - 1) * (2 * window[1] - 1), 3)
    expected = layers.resize_rel_pos_bias_table(table, window, shape)
    actual = resize_bias_table_log_spaced(table, window)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_log_spaced_interpolation_is_a_choice():
    source = make()
    randomise(source)
    tables = {}
    for choice in ("bicubic", "log_spaced"):
        target = make(window_size=7, table_interpolation=choice)
        target.load_state_dict(source.state_dict())
        assert len(target.checkpoint_report.interpolated) == 3
        tables[choice] = target.stages[1].blocks[1].attn.relative_position_bias_table
    assert relative_error(*tables.values()) > 0.05
    assert resize_bias_table_log_spaced(torch.ones(1, 2), (2, 3)).shape == (15, 2)
    assert resize_bias_table_log_spaced(torch.ones(15, 2), (2, 2)) is None


def test_v2_loads_at_any_window_without_interpolation():
    source, target = make(version="v2"), make(version="v2", window_size=(5, 9))
    target.load_state_dict(source.state_dict(), strict=True)
    assert not target.checkpoint_report.interpolated


RENAMED = {
    "one key": lambda k: k.replace("stages.0.blocks.0.attn.qkv.weight", "stages.0.q_k_v"),
    "all attentions": lambda k: k.replace(".attn.", ".attention."),
    "all stages": lambda k: k.replace("stages.", "levels."),
}
BROKEN = {
    **{name: lambda s, f=f: {f(k): v for k, v in s.items()} for name, f in RENAMED.items()},
    "NaN": lambda s: {**s, "stages.0.blocks.0.mlp.fc1.bias": torch.full((64,), float("nan"))},
    "infinity": lambda s: {**s, "norm0.weight": torch.full((16,), float("inf"))},
    "integers": lambda s: {**s, "norm0.weight": torch.ones(16, dtype=torch.int64)},
    "complex": lambda s: {**s, "norm0.weight": torch.ones(16, dtype=torch.complex64)},
    "shape": lambda s: {**s, "norm0.weight": torch.ones(17)},
    "other version": lambda s: make(version="v2").state_dict(),
}
MESSAGES = {
    "one key": "nearest is swin_backbone, but it has no stages.0.q_k_v, and .*attn.qkv.weight",
    "all attentions": "it has no stages.0.blocks.0.attention.* and 1[0-9] more",
    "all stages": "nearest is swin_backbone, but it has no levels.0",
    "NaN": "stages.0.blocks.0.mlp.fc1.bias: checkpoint has values that are not finite",
    "infinity": "norm0.weight: checkpoint has values that are not finite",
    "integers": "norm0.weight: checkpoint has torch.int64",
    "complex": "norm0.weight: checkpoint has torch.complex64",
    "shape": r"norm0.weight: checkpoint has \(17,\), backbone takes \(16,\)",
    "other version": "is of Swin V2, the backbone of version='v1'",
}


@pytest.mark.parametrize("way", ["init_cfg", "load_state_dict", "strict"])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_checkpoint_is_named_and_changes_nothing(fault, way, tmp_path):
    source = make()
    randomise(source)
    path = str(tmp_path / "broken.pth")
    state = BROKEN[fault](source.state_dict())
    torch.save(state, path)
    ours = make(init_cfg={"type": "Pretrained", "checkpoint": path})
    before = snapshot(ours)
    with pytest.raises(CheckpointError, match=MESSAGES[fault]):
        ours.init_weights() if way == "init_cfg" else ours.load_state_dict(state, way == "strict")
    assert_unchanged(ours, before)
    assert ours.checkpoint_report is None


def test_tensors_without_values_fit_too():
    with torch.device("meta"):
        source, target = make(), make()
    target.load_state_dict(source.state_dict(), assign=True)
    assert not target.checkpoint_report.missing


def test_strict_loading_changes_nothing_if_a_tensor_is_missing():
    state = make().state_dict()
    del state["norm1.weight"]
    ours = make()
    before = snapshot(ours)
    with pytest.raises(CheckpointError, match=r"strict loading refuses.*\n.*missing norm1.weight"):
        ours.load_state_dict(state)
    assert_unchanged(ours, before)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "convnext_tiny"])
def test_other_models_are_errors_that_name_the_nearest_layout(name):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    with torch.device("meta"):
        foreign = models.get_model(name).state_dict()
    ours = make()
    before = snapshot(ours)
    with pytest.raises(CheckpointError, match=r"nearest is .*(fit it are|it has no)"):
        ours.load_state_dict({key: torch.zeros(1) for key in foreign}, strict=False)
    assert_unchanged(ours, before)
