"""fully_shard (FSDP2) in two processes on the CPU, against DDP and one process; what it saves."""

import json

import pytest
import torch
from helpers import sharded_processes
from helpers.made_once import made_once
from helpers.tiny_run import tiny_config
from helpers.tools import call_tool, torchrun
from mmengine.registry import STRATEGIES, DefaultScope

from swin_backbone.checkpoints import read_checkpoint

pytest.importorskip("mmseg")
#: Losses in float32, in which sums over shards come in another order than DDP's.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def results(tmp_path_factory, scenes, script_environment):
    """What both processes found, by rank, and where they left files."""

    def make(folder):
        script, out = sharded_processes.__file__, folder / "results.json"
        torchrun(script, out, scenes, environment=script_environment)

    folder = made_once(tmp_path_factory, "sharded", make)
    return json.loads((folder / "results.json").read_text()), folder


@pytest.mark.slow
@pytest.mark.parametrize("case", sharded_processes.CASES)
def test_steps_equal_those_of_one_process(results, case):
    """Three steps of a clipped, fused AdamW in float64: only the order of sums differs, and AdamW
    divides what is near zero by what is near zero."""
    for found in results[0]:
        assert found[case]["weights"] <= 1e-12
        assert found[case]["norms"] <= 1e-12
        assert found[case]["moments"] <= 1e-14
        assert found[case]["spread"] > 1.8, "each process has half of the parameters"


@pytest.mark.slow
@pytest.mark.parametrize("case", sharded_processes.CASES)
def test_states_are_whole_and_go_on(results, case):
    """Read by a model that is spread in another way, to the bit; a next step with both."""
    for found in results[0]:
        assert found[case]["read"] == 0
        assert found[case]["gone on"] <= 1e-15


@pytest.mark.slow
def test_tensors_of_mmseg_load_into_shards(results):
    for found in results[0]:
        difference, refused = found["from mmseg"]
        assert difference == 0
        assert "patch_embed.projection.weight: checkpoint has (8, 3, 2, 2)" in refused


def runs(results, *names):
    return [results[0][0]["runs"][name] for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_run_is_that_of_ddp_and_goes_on_to_the_bit(results, version):
    """With drop path, dropout and validation; V1's gradients are clipped."""
    ddp, whole, again = runs(
        results, *(f"{version} {name}" for name in ("ddp", "fsdp2", "fsdp2 again"))
    )
    assert whole["loss"] == pytest.approx(ddp["loss"], rel=CLOSE)
    assert whole["grad_norm"] == pytest.approx(ddp["grad_norm"], rel=CLOSE)
    assert len(whole["grad_norm"]) == (4 if version == "v1" else 0)
    assert whole["mIoU"] == pytest.approx(ddp["mIoU"], abs=0.02)
    assert again["loss"] == whole["loss"][2:]
    first, second = (
        read_checkpoint(results[1] / f"{version} {name}" / "iter_4.pth")
        for name in ("fsdp2", "fsdp2 again")
    )
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name])
    for index, moments in first["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, second["optimizer"]["state"][index][name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("v1 fsdp2 from ddp", "v1 ddp"),
        ("v1 ddp from fsdp2", "v1 ddp"),
        ("v1 fsdp2 from fsdp", "v1 fsdp"),
    ],
)
def test_a_run_goes_on_with_another_strategy(results, name, like):
    gone_on, unbroken = runs(results, name, like)
    assert gone_on["loss"] == pytest.approx(unbroken["loss"][2:], rel=CLOSE)


@pytest.mark.slow
def test_fsdp_clips_by_the_norm_of_all(results):
    """And not each process by that of its own shards."""
    fsdp, ddp = runs(results, "v1 fsdp", "v1 ddp, no drops")
    assert fsdp["grad_norm"][:2] == pytest.approx(ddp["grad_norm"], rel=CLOSE)
    assert fsdp["loss"][:2] == pytest.approx(ddp["loss"], rel=CLOSE)


@pytest.mark.slow
def test_accelerated_accumulated_and_in_mixed_precision(results):
    ours, ddp = runs(results, "fsdp2 accumulated", "ddp accumulated")
    assert ours["loss"] == pytest.approx(ddp["loss"], rel=CLOSE)
    ours, low, ddp = runs(results, "fsdp2 amp", "fsdp2_bf16", "ddp amp")
    assert ours["loss"] == pytest.approx(ddp["loss"], rel=CLOSE)
    # Norms and tables are rounded to 8 bits, too, which DDP's autocast leaves alone.
    assert low["loss"] == pytest.approx(ddp["loss"], rel=4e-3)
    assert low["loss"] != ddp["loss"]
    assert ours["spread"] == [False, False], "blocks are kept until their backward pass"
    assert low["spread"] == [True, True], "or given back, where the config asks for it"
    (whole,) = runs(results, "fsdp2_graphs")  # without a GPU, of a backbone gathered as one
    assert whole["loss"][:2] == pytest.approx(ddp["loss"], rel=4e-3)
    assert whole["spread"] == [False] * 4
    assert min(whole["mIoU"]) > 0, "validated outside of autocast"


@pytest.mark.slow
def test_averages_of_weights_are_refused(results):
    assert "cannot be copied, which averages of weights (EMAHook)" in runs(results, "ema")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fsdp2"], "use a launcher, as tools/dist_train.sh CONFIG 1 does for one GPU"),
        (["fsdp2", "ema"], "one that fully_shard has spread cannot be copied: train with"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(options, message, scenes, tmp_path):
    config = tiny_config(scenes, tmp_path / "work", steps=1, env_cfg={})
    config.dump(tmp_path / "tiny.py")
    done = call_tool("train.py", tmp_path / "tiny.py", "--with", *options, check=False)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_checkpoint_is_that_of_one_process(results, version, tmp_path):
    """One process loads all of it; that of mmseg, written for it, too."""
    from mmseg.registry import MODELS

    from swin_backbone.checkpoints import convert_checkpoint

    path = results[1] / f"{version} fsdp2" / "iter_4.pth"
    saved = read_checkpoint(path)
    assert {"state_dict", "optimizer", "message_hub", "meta"} <= saved.keys()
    config = tiny_config("", tmp_path, backbone={"version": version}).model
    config.decode_head.norm_cfg = {"type": "GN", "num_groups": 4}
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(config)
        model.load_state_dict(saved["state_dict"])
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.load_state_dict(saved["optimizer"])
        moments = optimizer.state[model.backbone.patch_embed.projection.weight]
        assert moments["exp_avg"].abs().sum() > 0
        if version == "v2":
            return  # which mmseg has not
        config.backbone.type = "SwinTransformer"
        del config.backbone.version
        stock = MODELS.build(config)
    theirs, _ = convert_checkpoint(saved, "mmseg")
    heads = {k: v for k, v in saved["state_dict"].items() if not k.startswith("backbone.")}
    stock.load_state_dict({**{f"backbone.{k}": v for k, v in theirs.items()}, **heads})
    image = torch.randn(1, 3, 40, 32)
    for ours, theirs in zip(model.eval()(image), stock.eval()(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model_wrapper": {"type": "X"}}, TypeError, "takes no model_wrapper"),
        ({"param_dtype": "half"}, ValueError, "param_dtype must be bfloat16, .* got 'half'"),
        ({"reduce_dtype": 16}, ValueError, "reduce_dtype must be bfloat16, .* got 16"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        STRATEGIES.get("FullyShardStrategy")(**arguments)
