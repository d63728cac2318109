"""Maps with and without norms of their own, and checkpoints that have none."""

import logging
from contextlib import contextmanager

import pytest
import torch
from helpers.padded_images import ARGUMENTS, SIZES, assert_equal_alone, draw, pad
from helpers.peers import PAIRS, PEERS, make_theirs, ours_like, without_output_norms
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import load_checkpoint
from torch import nn

from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError


def make(**options):
    backbone = SwinBackbone(**{**ARGUMENTS, "output_norms": False, **options})
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone.double().eval()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_maps_are_what_the_stages_give(version):
    plain, normed = make(version=version), make(version=version, output_norms=True)
    normed.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(2, 3, 50, 61, dtype=torch.float64, requires_grad=True)
    found, expected = plain(images), without_output_norms(normed)(images)
    assert len(found) == 3
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    grads = [
        torch.autograd.grad(sum(m.square().sum() for m in maps), images)[0]
        for maps in (found, expected)
    ]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    "options",
    [{"mask_padding": True}, {"packed": True}, {"mask_padding": True, "packed": True}],
    ids=str,
)
def test_padding_stays_out_of_them(version, options):
    backbone, images = make(version=version, **options), draw()
    with torch.no_grad():
        maps = backbone(pad(images), torch.tensor(SIZES))
        alone = [backbone(image[None], torch.tensor([image.shape[1:]])) for image in images]
    scale = max(x.abs().max().item() for own in alone for x in own)
    assert_equal_alone(maps, alone, 1e-12 * max(scale, 1))


def test_there_are_no_parameters_for_them():
    plain = make(frozen_stages=2)
    assert not [name for name, _ in plain.named_parameters() if name.startswith("norm")]
    assert [info.channels for info in plain.features_info] == [16, 32, 64]
    with pytest.raises(TypeError, match="output_norms must be True or False, got 'no'"):
        make(output_norms="no")


def test_norms_of_a_checkpoint_are_left_out_with_the_reason():
    plain, normed = make(), make(output_norms=True)
    plain.load_state_dict(normed.state_dict())  # strictly
    reasons = {key: plain.checkpoint_report.ignored[key] for key in ("norm0.weight", "norm2.bias")}
    assert set(reasons.values()) == {"the backbone has no output norms (output_norms=False)"}
    with pytest.raises(CheckpointError, match=r"norm0\.weight(.|\n)*output_norms=False"):
        normed.load_state_dict(plain.state_dict())


class Segmentor(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        return self.backbone(x)


def load_by_init_cfg(ours, path):
    ours.init_cfg = {"type": "Pretrained", "checkpoint": str(path)}
    ours.init_weights()


def load_by_torch(ours, path):
    ours.load_state_dict(torch.load(path), strict=False)


def load_by_mmengine(ours, path):
    load_checkpoint(ours, str(path), map_location="cpu")


def in_a_model(load):
    def load_whole(ours, path):
        model = Segmentor(ours)
        state = {f"backbone.{key}": value for key, value in torch.load(path).items()}
        torch.save(state | {f"head.{k}": v for k, v in model.head.state_dict().items()}, path)
        load(model, path)

    return load_whole


LOADERS = {
    "init_cfg": load_by_init_cfg,
    "torch": load_by_torch,
    "mmengine": load_by_mmengine,
    "torch, in a model": in_a_model(load_by_torch),
    "mmengine, in a model": in_a_model(load_by_mmengine),
}


@contextmanager
def warnings_of_the_log():
    records, handler = [], logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize(("name", "version"), [*PAIRS, ("own", "v1"), ("own", "v2")])
def test_missing_norms_are_a_warning_with_their_names(name, version, tmp_path):
    """In every layout and through every way of loading."""
    theirs = ours_like(name, version) if name == "own" else make_theirs(name, version)
    norms = ("norm0", "norm1", "hidden_states_norms")
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith(norms)}
    for load in LOADERS.values():
        torch.save(state, tmp_path / "checkpoint.pth")
        ours = ours_like(name, version)
        with warnings_of_the_log() as records:
            load(ours, tmp_path / "checkpoint.pth")
        assert sorted(ours.checkpoint_report.missing) == [
            f"norm{stage}.{p}" for stage in (0, 1) for p in ("bias", "weight")
        ]
        (text,) = (text for text in records if "SwinBackbone" in text)
        assert all(f"missing {key}" in text for key in ours.checkpoint_report.missing)
        assert "output_norms=False" in text
    with pytest.raises(CheckpointError, match=r"missing norm0\.weight"):
        ours.load_state_dict(state, strict=True)


@pytest.mark.parametrize(("name", "version"), [p for p in PAIRS if p[1] not in PEERS[p[0]].normed])
def test_maps_of_libraries_that_have_none(name, version):
    theirs = make_theirs(name, version)
    ours = ours_like(name, version, output_norms=False)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(ours(images), PEERS[name].maps(theirs, images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # sums in another order
