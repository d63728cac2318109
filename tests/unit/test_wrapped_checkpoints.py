"""Which tensors of a file are the backbone's: what trainers wrap them in, and what is chosen."""

import pytest
import torch

import swin_backbone
from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError, find_backbone, read_checkpoint
from swin_backbone.checkpoints.read import CONTAINERS
from swin_backbone.cli import main

SMALL = {"embed_dims": 16, "depths": (1,), "num_heads": (1,), "out_indices": (0,)}


def state_of(value):
    """A backbone's state dict with this value everywhere."""
    state = SwinBackbone(**SMALL).state_dict()
    return {key: torch.full_like(tensor, value) for key, tensor in state.items()}


def value_of(tensors):
    assert tensors.keys() == state_of(0).keys()
    (value,) = {float(tensor.flatten()[0]) for tensor in tensors.values()}
    return value


def under(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.mark.parametrize("inner", ["", "module.", "backbone.", "module.encoder.net."])
@pytest.mark.parametrize("name", [*CONTAINERS, "teacher", "student", "anything"])
def test_a_state_dict_is_found_under_any_name(name, inner):
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    file = {"epoch": 3, "optimizer": optimizer, name: under(inner, state_of(1))}
    tensors, ignored = find_backbone(file)
    assert value_of(tensors) == 1
    reason = f"is beside the state dict {name!r}"
    assert ignored == {"epoch": reason, "optimizer": reason}


def test_averaged_weights_come_after_the_plain_ones_and_are_named():
    file = {"model_ema": state_of(2), "model": state_of(1)}
    tensors, ignored = find_backbone(file)
    assert value_of(tensors) == 1
    assert ignored == {
        "model_ema": "is beside the state dict 'model', another state dict: choose it with key="
    }
    assert value_of(find_backbone(file, key="model_ema")[0]) == 2


def test_state_dicts_of_unknown_names_have_to_be_chosen():
    file = {"teacher": state_of(1), "student": under("module.", state_of(2)), "epoch": 1}
    with pytest.raises(CheckpointError, match=r"under \['teacher', 'student'\]; choose .* key="):
        find_backbone(file)
    assert value_of(find_backbone(file, key="teacher")[0]) == 1
    assert value_of(find_backbone(file, key="student")[0]) == 2
    nested = {"student": {"state_dict": state_of(3)}, "teacher": {"state_dict": state_of(4)}}
    assert value_of(find_backbone(nested, key="teacher")[0]) == 4


@pytest.mark.parametrize("key", ["nothing", "epoch", ""])
def test_a_key_that_holds_no_tensors_is_an_error_that_lists_those_that_do(key):
    with pytest.raises(CheckpointError, match=rf"under key '{key}'; it has \['ema'\]"):
        find_backbone({"ema": state_of(1), "epoch": 3}, key=key)
    with pytest.raises(CheckpointError, match="it has none"):
        find_backbone(state_of(1), key=key)


BOTH = under("student.backbone.", state_of(1)) | under("teacher.backbone.", state_of(2))
BOTH["student.head.weight"] = torch.zeros(1)


@pytest.mark.parametrize("whole", [BOTH, {"state_dict": under("module.", BOTH)}])
@pytest.mark.parametrize(
    ("prefix", "value"),
    [("student", 1), ("student.", 1), ("student.backbone.", 1), ("teacher.backbone", 2)],
)
def test_prefix_chooses_among_several_backbones(whole, prefix, value):
    with pytest.raises(
        CheckpointError,
        match=r"several backbones, under \['student.backbone.', 'teacher.backbone.'\]",
    ):
        find_backbone(whole)
    tensors, ignored = find_backbone(whole, prefix=prefix)
    assert value_of(tensors) == value
    assert ignored["student.head.weight"] == "belongs to the model's student"


@pytest.mark.parametrize("name", ["", "backbone."])
def test_no_place_is_preferred_to_another(name):
    file = under(name, state_of(1)) | under("teacher.", state_of(2))
    with pytest.raises(CheckpointError, match=r"several backbones.*choose one with prefix="):
        find_backbone(file)
    assert value_of(find_backbone(file, prefix=name)[0]) == 1
    assert value_of(find_backbone(file, prefix="teacher")[0]) == 2


def test_a_prefix_that_is_not_there_is_an_error_that_lists_those_that_are():
    with pytest.raises(CheckpointError, match=r"'ema'; backbones are under \['student\.backbone"):
        find_backbone(BOTH, prefix="ema")
    with pytest.raises(CheckpointError, match=r"'ema'; keys begin with \['a'\]"):
        find_backbone({"a.b": torch.zeros(1)}, prefix="ema")
    nested = under("both.", BOTH)
    with pytest.raises(CheckpointError, match=r"several backbones under prefix 'both'"):
        find_backbone(nested, prefix="both")


@pytest.mark.parametrize("argument", ["prefix", "key"])
@pytest.mark.parametrize("value", [3, True, ["a"], b"a"])
def test_names_are_text(argument, value):
    with pytest.raises(TypeError, match=f"{argument} must be text or None, got"):
        find_backbone(state_of(1), **{argument: value})


def test_entries_that_are_no_tensors_are_named_as_ignored():
    file = state_of(1) | {"epoch": 3, "args": {"lr": 0.1}}
    tensors, ignored = find_backbone(file)
    assert value_of(tensors) == 1
    assert ignored == {"epoch": "is no tensor, but int", "args": "is no tensor, but dict"}


TEACHER = {"teacher": state_of(1), "student": under("backbone.", state_of(2)), "epoch": 3}


@pytest.mark.parametrize(
    ("file", "choice", "value"),
    [
        (TEACHER, {"key": "teacher"}, 1),
        (TEACHER, {"key": "student"}, 2),
        (BOTH, {"prefix": "teacher"}, 2),
        ({"params": BOTH, "params_ema": TEACHER["teacher"]}, {"key": "params_ema"}, 1),
        ({"a": BOTH, "b": BOTH}, {"key": "a", "prefix": "student."}, 1),
    ],
)
def test_every_way_in_chooses_by_key_and_prefix(file, choice, value, tmp_path, capsys):
    path, out = str(tmp_path / "whole.pth"), tmp_path / "out.pth"
    torch.save(file, path)
    config = {"type": "SwinBackbone", **SMALL}
    made = [swin_backbone.create(config, path, **choice)]
    init_cfg = {"type": "Pretrained", "checkpoint": path}
    made.append(swin_backbone.create({**config, "init_cfg": init_cfg}, **choice))
    made.append(SwinBackbone(**SMALL, init_cfg={**init_cfg, **choice}))
    made[-1].init_weights()
    assert [value_of(model.state_dict()) for model in made] == [value] * 3
    assert "epoch" not in file or "epoch" in made[-1].checkpoint_report.ignored
    options = [part for name, text in choice.items() for part in (f"--{name}", text)]
    main(["convert-checkpoint", path, str(out), "--to", "swin_backbone", *options])
    assert value_of(read_checkpoint(out)) == value
    with pytest.raises(CheckpointError, match="choose one with"):
        swin_backbone.create(config, path)
    with pytest.raises(SystemExit) as stopped:
        main(["convert-checkpoint", path, str(out), "--to", "swin_backbone", "--key", "nothing"])
    assert stopped.value.code in (1, 2)
    assert "no state dict under key 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("choice", [{"key": "a"}, {"prefix": "a"}])
def test_a_choice_without_a_checkpoint_is_an_error(choice):
    with pytest.raises(ValueError, match="choose from a checkpoint; none is given"):
        swin_backbone.create({"type": "SwinBackbone", **SMALL}, **choice)


def test_dicts_in_dicts_are_an_error_however_they_are_knotted():
    knot = {"epoch": 1}
    knot["model"] = knot
    with pytest.raises(CheckpointError, match="holds no state dict of tensors"):
        find_backbone(knot)
    knot["a.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="dicts in dicts, more than 8 deep"):
        find_backbone(knot)
    wide = {"a.weight": torch.zeros(1)}
    for _ in range(40):
        wide = dict.fromkeys(CONTAINERS, wide)
    with pytest.raises(CheckpointError, match="dicts in dicts, more than 8 deep"):
        find_backbone(wide)
