"""What a tool runs has been loaded, every tensor of it, or the tool says which was not."""

import logging
import re

import numpy as np
import pytest
import torch
from helpers.small_models import write_detector, write_segmentor
from helpers.tiny_run import tiny_config
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import swin_backbone
from swin_backbone.checkpoints import CheckpointError, read_checkpoint
from swin_backbone.openmmlab.whole_models import load_backbone, load_whole_model

KINDS = {"segmentor": write_segmentor, "detector": write_detector}
#: A tensor of each kind's head.
HEADS = {"segmentor": "decode_head.conv_seg.weight", "detector": "roi_head.bbox_head.fc_cls.weight"}


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    """Kind, config and checkpoint."""
    if request.param == "detector":
        pytest.importorskip("mmdet")
    return request.param, *KINDS[request.param](tmp_path_factory.mktemp(request.param))


def nan_in(state, key):
    return {**state, key: torch.full_like(state[key], float("nan"))}


def other_classes(state, head):
    return {
        k: v[:1].repeat(7, *[1] * (v.dim() - 1)) if k.startswith(head.rsplit(".", 1)[0]) else v
        for k, v in state.items()
    }


#: What makes a checkpoint a wrong one, and what the error says.
FAULTS = {
    "headless": (
        lambda state, head: {k: v for k, v in state.items() if k.startswith("backbone.")},
        r"missing: .*{part}",
    ),
    "no backbone": (
        lambda state, head: {k: v for k, v in state.items() if not k.startswith("backbone.")},
        r"missing: backbone",
    ),
    "one tensor less": (
        lambda state, head: {k: v for k, v in state.items() if k != head},
        "{head}",
    ),
    "other classes": (other_classes, r"of another shape: .*{head}"),
    "NaN in the head": (nan_in, r"not finite: {head}"),
    "NaN in the backbone": (
        lambda state, head: nan_in(state, "backbone.patch_embed.projection.weight"),
        "finite",
    ),
    "another library's names": (
        lambda state, head: {f"model.{i}.weight": v for i, v in enumerate(state.values())},
        "missing",
    ),
    "nothing": (lambda state, head: {}, "missing"),
}


def broken(model, fault, tmp_path):
    kind, config, checkpoint = model
    content = read_checkpoint(checkpoint)
    break_it, message = FAULTS[fault]
    content["state_dict"] = break_it(content["state_dict"], HEADS[kind])
    torch.save(content, tmp_path / "broken.pth")
    head = HEADS[kind]
    message = message.format(head=re.escape(head), part=re.escape(head.split(".")[0]))
    return config, tmp_path / "broken.pth", message


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_weights_are_an_error_that_lists_them(fault, model, tmp_path):
    config, checkpoint, message = broken(model, fault, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_whole_model(config, checkpoint)


@pytest.mark.parametrize("fault", FAULTS)
def test_missing_tensors_may_be_allowed_and_nan_may_not(fault, model, tmp_path):
    config, checkpoint, message = broken(model, fault, tmp_path)
    if "NaN" in fault:
        with pytest.raises(CheckpointError, match=message):
            load_whole_model(config, checkpoint, allow_missing=True)
    else:
        assert load_whole_model(config, checkpoint, allow_missing=True).dataset_meta["classes"]


@pytest.mark.parametrize(
    "wrap", ["whole", "no meta", "the state dict alone", "DDP's names", "under model"]
)
def test_a_right_checkpoint_loads_bit_for_bit(wrap, model, tmp_path):
    _, config, checkpoint = model
    content = read_checkpoint(checkpoint)
    state = content["state_dict"]
    written = {
        "whole": content,
        "no meta": {"state_dict": state},
        "the state dict alone": state,
        "under model": {"model": state, "epoch": 3},
        "DDP's names": {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    }[wrap]
    torch.save(written, tmp_path / "checkpoint.pth")
    loaded = load_whole_model(config, tmp_path / "checkpoint.pth")
    assert not loaded.training
    own = loaded.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    names = Config.fromfile(config).test_dataloader.dataset.metainfo.classes
    assert tuple(loaded.dataset_meta["classes"]) == tuple(names)


def test_classes_are_the_checkpoints_then_the_configs_or_an_error(model, tmp_path):
    kind, config, checkpoint = model
    content = read_checkpoint(checkpoint)
    for meta, expected in (
        ({"dataset_meta": {"CLASSES": ("its",), "PALETTE": [(1, 2, 3)]}}, ("its",)),
        ({"CLASSES": ("old",), "PALETTE": [(1, 2, 3)]}, ("old",)),
    ):
        torch.save({**content, "meta": meta}, tmp_path / "named.pth")
        found = load_whole_model(config, tmp_path / "named.pth").dataset_meta
        assert (tuple(found["classes"]), found["palette"]) == (expected, [(1, 2, 3)])
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "nameless.pth")
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pop("metainfo", None)
    cfg.test_dataloader.dataset.type = "BaseSegDataset" if kind == "segmentor" else "BaseDetDataset"
    with pytest.raises(ValueError, match="does not name its classes"):
        load_whole_model(cfg, tmp_path / "nameless.pth")


def test_a_config_stays_as_it_is(model):
    _, config, checkpoint = model
    cfg = Config.fromfile(config)
    cfg.model.pretrained = None
    before = cfg.to_dict()
    load_whole_model(cfg, checkpoint, changes={"model.backbone.window_size": 7})
    assert cfg.to_dict() == before


def test_the_other_kind_is_refused_by_name(model):
    kind, config, checkpoint = model
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(ValueError, match=rf"must be of a {other}, and is a {kind}'s"):
        load_whole_model(config, checkpoint, kind=other)


def test_configs_that_are_of_no_model(tmp_path):
    for text, message in (
        ("x = 1", "has no model"),
        ("model = dict(type='Nothing')", "cannot be built"),
        ("model = 1", "has no model"),
        ("default_scope = 'mmpretrain'\nmodel = dict(type='X')", "got default_scope 'mmpretrain'"),
        ("model = dict(", "cannot be read"),
        ("model = undefined", "cannot be read"),
        ("_base_ = ['nowhere.py']", "nowhere.py"),
        ("custom_imports = dict(imports=['no_such_module'])\nmodel = dict()", "no_such_module"),
    ):
        (tmp_path / "config.py").write_text(text)
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
            load_whole_model(tmp_path / "config.py", None)


@pytest.mark.parametrize("command", ["predict", "demo_app", "export"])
@pytest.mark.parametrize("fault", ["headless", "other classes", "NaN in the head"])
def test_commands_refuse_wrong_weights_and_paint_nothing(fault, command, model, tmp_path, capsys):
    config, checkpoint, message = broken(model, fault, tmp_path)
    image, out = tmp_path / "image.png", tmp_path / "out"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(image)
    if command == "demo_app":
        pytest.importorskip("gradio", reason="needs the extra 'demo'")
        from swin_backbone.cli.demo_app import main

        arguments = [config, checkpoint]
    elif command == "export":
        from swin_backbone.cli.export import main

        arguments = [config, checkpoint, "--out", out / "model.pt2"]
    else:
        from swin_backbone.cli.predict import main

        arguments = [config, checkpoint, image, "--out", out, "--device", "cpu"]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    prog = f"swin-backbone {command.replace('_', '-')}"
    assert re.search(f"{prog}: error: checkpoint .*{message}", line)
    assert not out.exists()


def test_predict_goes_on_where_it_is_allowed(model, tmp_path):
    from swin_backbone.cli.predict import main

    config, checkpoint, _ = broken(model, "one tensor less", tmp_path)
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "image.png")
    arguments = [config, checkpoint, tmp_path / "image.png", "--out", tmp_path / "out"]
    assert main([*arguments, "--allow-missing"]) == 0
    assert (tmp_path / "out" / "image.png").is_file()


def test_backbones_that_lack_tensors(tmp_path):
    config = tmp_path / "backbone.py"
    config.write_text(
        "model = dict(backbone=dict(type='SwinBackbone', embed_dims=8,\n"
        "    depths=(2, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1)))"
    )
    state = swin_backbone.create(str(config)).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("norm")}, tmp_path / "norms.pth")
    load_backbone(config, str(tmp_path / "norms.pth"))  # a classifier has none
    key = "stages.1.blocks.1.mlp.fc1.weight"
    torch.save({k: v for k, v in state.items() if k != key}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=re.escape(f"1 tensors are missing: {key}")):
        load_backbone(config, str(tmp_path / "less.pth"))
    load_backbone(config, str(tmp_path / "less.pth"), allow_missing=True)


# Through a runner: tools/test.py, tools/train.py.


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """Checkpoint of a tiny segmentor."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_config(scenes, folder, steps=1)
    config.train_cfg.val_interval = 2
    Runner.from_cfg(config).train()
    return folder / "iter_1.pth"


def runner_that_loads(scenes, folder, checkpoint, strict, num_classes=3, **options):
    config = tiny_config(scenes, folder, steps=2, load_from=str(checkpoint), **options)
    config.model.decode_head["num_classes"] = num_classes
    config.custom_hooks.append({"type": "LoadedWeightsHook", "strict": strict})
    config.train_cfg.val_interval = 3
    config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    config.test_cfg = {"type": "TestLoop"}
    return Runner.from_cfg(config)


def test_a_test_of_wrong_weights_is_an_error(scenes, tmp_path, trained):
    runner_that_loads(scenes, tmp_path / "right", trained, strict=True).test()
    runner = runner_that_loads(scenes, tmp_path, trained, strict=True, num_classes=4)
    with pytest.raises(CheckpointError, match=r"of another shape: .*decode_head\.conv_seg"):
        runner.test()


def test_fine_tuning_with_another_head_reports_what_it_did_not_load(
    scenes, tmp_path, trained, caplog
):
    runner = runner_that_loads(scenes, tmp_path, trained, strict=False, num_classes=4)
    with caplog.at_level(logging.WARNING):
        runner.logger.addHandler(caplog.handler)
        runner.train()
    warning = next(r.getMessage() for r in caplog.records if "TENSORS WERE LOADED" in r.message)
    assert "decode_head.conv_seg.weight" in warning
    torch.save({"state_dict": {"x": torch.ones(1)}}, tmp_path / "foreign.pth")
    runner = runner_that_loads(scenes, tmp_path / "b", tmp_path / "foreign.pth", strict=False)
    with pytest.raises(CheckpointError, match="has no tensor of this model"):
        runner.train()


def test_resuming_is_strict(scenes, tmp_path, trained):
    content = read_checkpoint(trained)
    del content["state_dict"]["decode_head.conv_seg.weight"]
    torch.save(content, tmp_path / "less.pth")
    options = {"strict": False, "resume": True}
    with pytest.raises(CheckpointError, match=r"missing: decode_head\.conv_seg\.weight"):
        runner_that_loads(scenes, tmp_path, tmp_path / "less.pth", **options).train()
    assert runner_that_loads(scenes, tmp_path / "whole", trained, **options).train() is not None
