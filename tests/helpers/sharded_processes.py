"""What two processes compute with parameters spread by fully_shard, against DDP and one process;
run by torchrun.

python -m torch.distributed.run --nproc_per_node=2 sharded_processes.py OUT SCENES

Writes JSON, and checkpoints beside it.
"""

import contextlib
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import FlexibleRunner
from torch import nn
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.found_by_all import write_and_leave
from helpers.graph_recorders import RunsAgain
from helpers.paths import CONFIGS
from helpers.tiny_run import tiny_config
from helpers.two_processes import ARGUMENTS, Model, images, largest_difference
from swin_backbone import graph_backbone
from swin_backbone.checkpoints import CheckpointError
from swin_backbone.model import SwinBlock, SwinBlockV2
from swin_backbone.model.sharding import (
    shard,
    spread_optimizer_state,
    step_on_own_parts,
    whole,
    whole_optimizer_state,
    whole_state_dict,
    with_whole_norm,
)

SIZE = (20, 28)
#: Of the backbone; ``unit_mb`` of sharding: a block by itself, some, all of them, or the whole
#: backbone, which is replayed by graphs then; and whether it is given back after its forward pass.
CASES = {
    "v1, a block": ({}, 1e-6),
    "v1, two blocks": ({}, 0.02),
    "v1, all": ({}, 25),
    "v1, two blocks, given back": ({}, 0.02, True),
    "v2": ({"version": "v2"}, 1e-6),
    "with_cp, v2, given back": ({"with_cp": True, "version": "v2"}, 1e-6, True),
    "with_cp": ({"with_cp": True}, 1e-6),
    "with_cp, v2, two blocks": ({"with_cp": True, "version": "v2"}, 0.02),
    "frozen": ({"frozen_stages": 1, "out_indices": (1,)}, 0.02),
    "early maps": ({"depths": (1, 1, 1), "num_heads": (1, 2, 4), "strides": (4, 2, 2)}, 0.02),
    "v1, graphs": ({}, None),
    "v2, graphs, given back": ({"version": "v2"}, None, True),
    "frozen, graphs": ({"frozen_stages": 1, "out_indices": (1,)}, None),
    "position": ({"use_abs_pos_embed": True, "pretrain_img_size": 28}, 25),
}


def clip(parameters):
    clipped = with_whole_norm(nn.utils.clip_grad_norm_)
    return float(clipped([p for p in parameters if p.grad is not None], 0.05))


def steps(model, forward, batches, optimizer):
    """Norms of the gradients; of AdamW, clipped."""
    norms = []
    for batch in batches:
        optimizer.zero_grad()
        forward(batch).backward()
        norms.append(clip(model.parameters()))
        optimizer.step()
    return norms


def adamw(model):
    wanted = [p for p in model.parameters() if p.requires_grad]
    return step_on_own_parts(torch.optim.AdamW(wanted, lr=1e-2, fused=True))


def largest(state, other):
    assert state.keys() == other.keys()
    return largest_difference([state[k] for k in other], list(other.values()))


def against_one(rank, changes, unit_mb, reshard_after_forward=False):
    """Weights after three steps, and what happens to a state that is read back."""
    alone, model = Model(**changes), Model(**changes)
    shard(model, "cpu", unit_mb, reshard_after_forward=reshard_after_forward)
    own, spread = adamw(alone), adamw(model)
    recorder = RunsAgain()
    if unit_mb is None:
        graphs = graph_backbone(model.backbone, record_on=lambda device: recorder)
    batches = [[images(2 * step + other, SIZE) for other in range(2)] for step in range(4)]
    norms = steps(alone, alone, [torch.cat(both) for both in batches[:3]], own)
    found = steps(model, model, [both[rank] for both in batches[:3]], spread)
    state, moments = whole_state_dict(model), whole_optimizer_state(spread)
    if unit_mb is None:  # replayed from the second step on, from weights as they are then
        assert graphs.reason is None
        assert graphs.shapes == 1
        assert recorder.replays == 2 * (len(norms) - 1), "forward and backward passes"
    results = {
        "weights": largest(state, alone.state_dict()),
        "norms": max(abs(a - b) for a, b in zip(norms, found, strict=True)),
        "moments": max(
            largest(moments["state"][index], entry)
            for index, entry in own.state_dict()["state"].items()
        ),
        "spread": sum(whole(p).numel() for p in model.parameters())
        / sum(p.to_local().numel() for p in model.parameters()),
    }
    # Into another model, spread in another way; and from mmseg's names and order of channels.
    other = shard(Model(**changes), "cpu", 25)
    other.load_state_dict(state)
    results["read"] = largest(whole_state_dict(other), state)
    again = adamw(other)
    again.load_state_dict(spread_optimizer_state(again, moments))
    steps(model, model, [batches[3][rank]], spread)
    steps(other, other, [batches[3][rank]], again)
    results["gone on"] = largest(whole_state_dict(other), whole_state_dict(model))
    return results


def from_mmseg():
    """A state of mmseg's backbone, read by ours as one and spread."""
    from mmseg.models.backbones import SwinTransformer

    theirs = SwinTransformer(**ARGUMENTS).double()
    for parameter in theirs.parameters():
        dist.broadcast(nn.init.normal_(parameter.data), 0)
    state = {f"backbone.{name}": tensor for name, tensor in theirs.state_dict().items()}
    alone, model = Model(), shard(Model(), "cpu", 0.02)
    for each in (alone, model):
        each.load_state_dict(state, strict=False)
    misfits = {**state, "backbone.patch_embed.projection.weight": torch.zeros(8, 3, 2, 2)}
    try:
        model.load_state_dict(misfits, strict=False)
        refused = ""
    except CheckpointError as error:
        refused = str(error)
    return largest(whole_state_dict(model), alone.state_dict()), refused


def train(scenes, work_dir, options, steps=4, load_from=None, **changes):
    """Losses of a run from a config, step by step."""
    cfg = tiny_config(scenes, work_dir, steps=steps, launcher="pytorch", env_cfg={})
    cfg.load_from, cfg.resume = load_from and str(load_from), load_from is not None
    cfg.train_cfg.val_interval = 3
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=-1, save_best=None)
    cfg.custom_hooks.append({"type": "LoadedWeightsHook", "strict": False})
    cfg.custom_hooks.append({"type": "RecordHook"})
    cfg.model.decode_head.norm_cfg = {"type": "GN", "num_groups": 4}
    cfg.optim_wrapper.optimizer.fused = True
    for name in options:
        option = Config.fromfile(CONFIGS / "_base_" / "options" / f"{name}.py")
        cfg.merge_from_dict(option.to_dict())
    if cfg.strategy.type == "DDPStrategy":
        cfg.strategy.model_wrapper.type = "CPUDistributedDataParallel"
    elif cfg.strategy.type == "FullyShardStrategy":
        cfg.strategy.unit_mb = 0.02
    else:
        cfg.strategy.model_wrapper.device_id = "cpu"
    cfg.merge_from_dict(changes)
    runner = FlexibleRunner.from_cfg(cfg)
    runner.train()
    return next(hook for hook in runner.hooks if isinstance(hook, RecordHook)).seen


@HOOKS.register_module()
class RecordHook(Hook):
    """What a run computes."""

    def before_train(self, runner):
        self.seen = {"loss": [], "grad_norm": [], "mIoU": [], "spread": []}
        runner.model.register_forward_hook(self.after_forward)

    def after_forward(self, model, inputs, output):
        """Whether the first block is spread over the processes between training's passes."""
        if model.training:
            block = next(m for m in model.modules() if isinstance(m, SwinBlock | SwinBlockV2))
            self.seen["spread"].append(isinstance(next(block.parameters()), DTensor))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen["loss"].append(float(outputs["loss"].detach()))
        norms = runner.message_hub.log_scalars.get("train/grad_norm")
        self.seen["grad_norm"] += [norms.current()] if norms is not None else []

    def after_val_epoch(self, runner, metrics=None):
        self.seen["mIoU"].append(float(metrics["mIoU"]))


V2 = {"model.backbone.version": "v2"}
CLIPPED = {"optim_wrapper.clip_grad": {"max_norm": 0.1}}


def runs(scenes, out):
    """From configs: without a break and with one, by DDP and by fully_shard; with both versions."""
    found = {}

    def run(name, *arguments, **changes):
        found[name] = train(scenes, out / name, *arguments, **changes)

    for version, changes in (("v1", CLIPPED), ("v2", V2)):
        run(f"{version} ddp", ["ddp"], **changes)
        run(f"{version} fsdp2", ["fsdp2"], **changes)
        middle = out / f"{version} fsdp2" / "iter_2.pth"
        run(f"{version} fsdp2 again", ["fsdp2"], load_from=middle, **changes)
    run("v1 fsdp2 from ddp", ["fsdp2"], load_from=out / "v1 ddp" / "iter_2.pth", **CLIPPED)
    run("v1 ddp from fsdp2", ["ddp"], load_from=out / "v1 fsdp2" / "iter_2.pth", **CLIPPED)
    no_drops = {**CLIPPED, "model.backbone.drop_path_rate": 0.0}  # FSDP's blocks draw their own
    run("v1 ddp, no drops", ["ddp"], steps=2, **no_drops)
    run("v1 fsdp", ["fsdp"], **no_drops)
    run("v1 fsdp2 from fsdp", ["fsdp2"], load_from=out / "v1 fsdp" / "iter_2.pth", **no_drops)
    hooks = {"default_hooks.accelerate": {"type": "AccelerateHook"}}
    for name in ("ddp", "fsdp2"):
        often = {"optim_wrapper.accumulative_counts": 2, **hooks}
        run(f"{name} accumulated", [name, "accumulate"], **often)
        run(f"{name} amp", [name, "amp_bf16"], steps=2, **hooks)
    given_back = {"strategy.reshard_after_forward": True}
    run("fsdp2_bf16", ["fsdp2_bf16"], steps=2, **hooks, **given_back)
    run("fsdp2_graphs", ["fsdp2_graphs"], **{"strategy.unit_mb": None})
    try:
        run("ema", ["fsdp2", "ema"], steps=1)
    except TypeError as error:
        found["ema"] = str(error)
    return found


def main():
    from helpers import amp_on_cpu  # noqa: F401  (not in the tests' own process)

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    out, scenes = Path(sys.argv[1]), sys.argv[2]
    rank = dist.get_rank()
    with contextlib.redirect_stdout(sys.stderr):
        found = {name: against_one(rank, *case) for name, case in CASES.items()}
        found["from mmseg"] = from_mmseg()
        found["runs"] = runs(scenes, out.parent)
    write_and_leave(out, found)


if __name__ == "__main__":
    main()
