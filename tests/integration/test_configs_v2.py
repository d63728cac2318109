"""Configs of Swin V2: names, pretrained weights and what does not decay.

That they train a step and predict is tested with all other configs.
"""

import re

import pytest
from helpers.paths import CONFIGS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from swin_backbone import list_checkpoints

pytest.importorskip("mmseg")
from mmseg.registry import MODELS

CONFIGS = sorted((CONFIGS / "swinv2").glob("*.py"))
NAME = re.compile(
    r"swinv2-(?P<arch>\w+)-patch4-window(?P<window>\d+)-in(?P<images>\d+k)-(?P<size>\d+)x\d+-pre"
    r"_upernet_8xb2-160k_ade20k-512x512"
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_does_what_its_name_says_and_takes_the_catalogues_options(path):
    name = NAME.fullmatch(path.stem)
    cfg = Config.fromfile(path)
    backbone = cfg.model.backbone
    assert (backbone.version, backbone.arch) == ("v2", name["arch"])
    assert backbone.window_size == int(name["window"])
    (entry,) = [e for e in list_checkpoints() if e.source == backbone.init_cfg.checkpoint]
    assert entry.architecture == {"arch": name["arch"]}
    assert (entry.window_size, entry.image_size) == (int(name["window"]), int(name["size"]))
    assert entry.trained_windows == tuple(backbone.pretrained_window_sizes)
    assert ("22k" in entry.data) == (name["images"] == "22k")
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.model.data_preprocessor.size == (512, 512)


def test_position_networks_and_logit_factors_do_not_decay():
    cfg = Config.fromfile(next(path for path in CONFIGS if "tiny-patch4-window8" in path.stem))
    cfg.model.backbone.update(arch=None, embed_dims=8, depths=(1,) * 4, num_heads=(1, 1, 1, 1))
    cfg.model.decode_head.update(in_channels=[8, 16, 32, 64], channels=8)
    cfg.model.auxiliary_head.update(in_channels=32, channels=8)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        exempt = re.search(r"norm|cpb_mlp|logit_scale", name)
        assert decay[id(parameter)] == (0 if exempt else 0.01), name
