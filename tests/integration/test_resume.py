"""A run that is killed and resumed reaches the weights of an unbroken one, bit for bit."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tiny_run
from helpers.paths import CONFIGS
from helpers.tiny_run import tiny_config
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from swin_backbone.checkpoints import CheckpointError, read_checkpoint
from swin_backbone.openmmlab.atomic_checkpoints import AtomicCheckpointHook, AtomicLocalBackend
from swin_backbone.openmmlab.resuming import find_checkpoint_to_resume
from swin_backbone.openmmlab.seeded_data import (
    EndlessBatches,
    EpochBatches,
    SeededDataset,
    seed_generators,
)

STEPS = 14


def train(config):
    runner = Runner.from_cfg(config)
    try:
        runner.train()
    finally:
        workers = runner.train_dataloader._iterator
        if workers is not None:  # left as garbage, they would take five seconds to end
            workers._shutdown_workers()
    return runner


def read(work_dir, name=f"iter_{STEPS}.pth"):
    return read_checkpoint(Path(work_dir) / name)


def assert_same_state(a, b, tolerance=0.0):
    """Weights, buffers and the optimizer's moments."""
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, tensor in a["state_dict"].items():
        torch.testing.assert_close(
            b["state_dict"][name], tensor, rtol=tolerance, atol=tolerance, msg=name
        )
    for index, moments in a["optimizer"]["state"].items():
        for name, tensor in moments.items():
            other = b["optimizer"]["state"][index][name]
            torch.testing.assert_close(other, tensor, rtol=tolerance, atol=tolerance)


def run_script(environment, *args):
    command = [sys.executable, tiny_run.__file__, *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def unbroken(scenes, tmp_path_factory, script_environment):
    work_dir = tmp_path_factory.mktemp("unbroken")
    done = run_script(script_environment, scenes, work_dir)
    assert done.returncode == 0, done.stderr
    return read(work_dir)


KILL_SEED = int(os.environ.get("SWIN_KILL_SEED", random.randrange(2**32)))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_at_a_random_moment(scenes, tmp_path, script_environment, unbroken, num_workers):
    moment = random.Random(f"{KILL_SEED} {num_workers}")
    die_at = ["--die-at", moment.randrange(STEPS), moment.uniform(0, 0.1)]
    print(f"SWIN_KILL_SEED={KILL_SEED}: {die_at}")
    options = [scenes, tmp_path, "--num-workers", num_workers]
    killed = run_script(script_environment, *options, *die_at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_script(script_environment, *options, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_state(read(tmp_path), unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["iter_6.pth", "last_checkpoint"])
def test_killed_while_a_checkpoint_is_written(scenes, tmp_path, script_environment, unbroken, file):
    """With one checkpoint kept, so that there is no other to resume from."""
    killed = run_script(script_environment, scenes, tmp_path, "--die-when-placing", file)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_script(script_environment, scenes, tmp_path, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_state(read(tmp_path), unbroken)
    assert len(list(tmp_path.glob("iter_*.pth"))) == 1


def stop_at(step):
    return {"type": "StopHook", "step": step}


@tiny_run.HOOKS.register_module(force=True)
class StopHook(tiny_run.Hook):
    """Ends a run as an interruption does: after a step, without another checkpoint."""

    def __init__(self, step):
        self.step = step

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.step:
            raise InterruptedError


@pytest.mark.slow
def test_epoch_based_run_with_lasting_workers(scenes, tmp_path):
    """4 steps an epoch; workers that live on from epoch to epoch start afresh on resume."""
    options = {
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 4},
        "param_scheduler": {"type": "MultiStepLR", "milestones": [1, 2, 3]},
        "default_hooks": {"checkpoint": {"type": "AtomicCheckpointHook", "interval": 1}},
    }

    def config(name, **more):
        config = tiny_config(scenes, tmp_path / name, num_workers=1, **options, **more)
        config.train_dataloader.sampler = {"type": "DefaultSampler", "shuffle": True}
        return config

    train(config("unbroken"))
    broken = config("broken")
    broken.custom_hooks.append(stop_at(10))
    with pytest.raises(InterruptedError):
        train(broken)
    assert not (tmp_path / "broken" / "epoch_3.pth").exists()
    resumed = train(config("broken", resume=True))
    assert resumed.iter == 16
    assert_same_state(
        read(tmp_path / "broken", "epoch_4.pth"), read(tmp_path / "unbroken", "epoch_4.pth")
    )


def test_two_seeds_give_two_runs(scenes, tmp_path):
    """Else the tests above might compare what never changes."""
    weights = []
    for seed in (0, 1):
        config = tiny_config(scenes, tmp_path / f"{seed}", steps=2, randomness={"seed": seed})
        weights.append(train(config).model.decode_head.conv_seg.weight)
    assert not torch.equal(*weights)


class Noise(torch.utils.data.Dataset):
    """Samples that tell their index and draw from all three generators."""

    metainfo = {"classes": ("noise",)}  # noqa: RUF012

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def draw(key, positions, num_workers):
    loader = DataLoader(
        SeededDataset(Noise(), key), batch_sampler=[positions], num_workers=num_workers
    )
    (batch,) = loader
    return torch.stack([column.double() for column in batch], dim=1)


def test_a_steps_numbers_depend_on_seed_and_step_alone():
    hook = HOOKS.get("StepSeedHook")()

    def drawn(seed, step):
        hook.before_train_iter(SimpleNamespace(seed=seed, iter=step), batch_idx=0)
        return *torch.rand(2).tolist(), np.random.rand(), random.random()

    numbers = {(seed, step): drawn(seed, step) for seed in (0, 1) for step in (0, 1, 2)}
    assert len({number for row in numbers.values() for number in row}) == 4 * len(numbers)
    assert all(drawn(*key) == row for key, row in numbers.items())


def test_samples_depend_on_seed_rank_step_and_place_alone():
    positions = [(0, 0, 4), (0, 1, 4), (1, 0, 4), (1, 1, 5)]
    samples = draw((3, 0), positions, num_workers=0)
    assert samples[:, 0].tolist() == [4, 4, 4, 5]
    assert len(samples[:, 1:].unique()) == 12
    seed_generators(99)  # where the generators stand does not matter
    assert torch.equal(draw((3, 0), positions, num_workers=1), samples)
    assert torch.equal(draw((3, 0), positions[2:], num_workers=0), samples[2:])
    for other in ((3, 1), (4, 0)):
        assert not (draw(other, positions, num_workers=0) == samples)[:, 1:].any()


def test_the_step_goes_on_from_epoch_to_epoch():
    """Else every epoch would repeat the augmentation of the first."""
    epoch = EpochBatches([[4, 5], [6]], None, lambda: 10)
    assert list(epoch) == [[(10, 0, 4), (10, 1, 5)], [(11, 0, 6)]]


def test_a_loader_without_batches():
    with pytest.raises(ValueError, match="makes no batch"):
        next(iter(EndlessBatches([], None, 0)))


def test_a_seeded_dataset_passes_for_the_original():
    original = Noise()
    seeded = SeededDataset(original, (0,))
    assert len(seeded) == 6
    assert seeded.metainfo == Noise.metainfo
    seeded.pipeline = "exchanged"
    assert original.pipeline == "exchanged"


@pytest.mark.parametrize(
    ("sampler", "resumed_at"),
    [("InfiniteSampler", 0), ("InfiniteSampler", 5), ("DefaultSampler", 5)],
)
def test_data_order_is_that_of_mmengine(scenes, tmp_path, sampler, resumed_at):
    """The loops of the two lines skip differently what was seen before."""
    seen = []

    @tiny_run.HOOKS.register_module(force=True)
    class LookHook(tiny_run.Hook):
        priority = "LOWEST"

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append([sample.img_path for sample in data_batch["data_samples"]])

    def look(name, hooks, **options):
        seen.clear()
        config = tiny_config(scenes, tmp_path / name, steps=8, **options)
        config.custom_hooks = [*hooks, {"type": "LookHook"}]
        config.train_dataloader.sampler.type = sampler
        config.default_hooks.checkpoint = {"type": "CheckpointHook", "by_epoch": False}
        config.default_hooks.checkpoint.interval = 5
        train(config)
        return list(seen)

    stock = look("stock", [])
    resume = {"resume": True, "load_from": str(tmp_path / "stock/iter_5.pth")}
    ours = look("ours", [{"type": "StepSeedHook"}], **(resume if resumed_at else {}))
    assert len({path for batch in stock[:4] for path in batch}) == 8
    assert ours == stock[resumed_at:]


@tiny_run.HOOKS.register_module()
class ListHook(tiny_run.Hook):
    """Notes which checkpoints there are when another is about to be written."""

    seen: list = []  # noqa: RUF012

    def before_save_checkpoint(self, runner, checkpoint):
        names = {path.name for path in Path(runner.work_dir).glob("iter_*.pth")}
        type(self).seen.append((runner.iter + 1, names))


@pytest.mark.parametrize("kept", [1, 2, -1])
def test_old_checkpoints_go_when_the_new_one_is_there(scenes, tmp_path, kept):
    config = tiny_config(scenes, tmp_path, steps=8)
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=kept, save_best=None)
    config.custom_hooks.append({"type": "ListHook"})
    ListHook.seen.clear()
    train(config)
    saved = [f"iter_{step}.pth" for step in (2, 4, 6, 8)]
    surviving = kept if kept > 0 else len(saved)
    for number, (step, names) in enumerate(ListHook.seen):
        assert step == 2 * (number + 1)
        assert names == set(saved[max(0, number - surviving) : number])
    assert {path.name for path in tmp_path.glob("iter_*")} == set(saved[-surviving:])
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / saved[-1])


def test_a_surplus_checkpoint_goes_when_the_run_is_resumed(scenes, tmp_path):
    """The process died between writing one and removing another."""
    config = tiny_config(scenes, tmp_path, steps=6)
    config.custom_hooks.append(stop_at(5))
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=1, save_best=None)
    with pytest.raises(InterruptedError):
        train(config)
    shutil.copy(tmp_path / "iter_4.pth", tmp_path / "iter_2.pth")
    config.resume = True
    config.custom_hooks = [stop_at(4)]
    with pytest.raises(InterruptedError):
        train(config)
    assert {path.name for path in tmp_path.glob("iter_*")} == {"iter_4.pth"}


def test_a_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    backend = AtomicLocalBackend()
    backend.put(b"old", path)

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        backend.put(b"new", path)
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    backend.put_text("newer", path)
    assert path.read_bytes() == b"newer"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


#: What a crash, a full disk or a move may have made of the pointer, given the last checkpoint.
POINTERS = {
    "missing": None,
    "empty": "",
    "of zeros": "\0" * 20,
    "of a missing file": "/nowhere/iter_9.pth",
    "of a broken file": "{folder}/iter_30.pth",
    "of a folder that moved": "/moved/iter_20.pth",
}


def write_checkpoints(folder):
    """Three whole ones, of which the last is cut off after it was written."""
    content = {"state_dict": {"a": torch.ones(50)}, "optimizer": {}, "meta": {"iter": 1}}
    for step in (3, 10, 20, 30):
        torch.save(content, folder / f"iter_{step}.pth")
    os.truncate(folder / "iter_30.pth", 700)
    best = {"state_dict": {"a": torch.ones(50)}, "meta": {}}
    torch.save(best, folder / "best_mIoU_iter_25.pth")
    (folder / f".{'1' * 8}-{'2' * 8}-1-0.unfinished.pth").write_bytes(b"part")


@pytest.mark.parametrize("pointer", POINTERS)
def test_the_newest_whole_checkpoint_is_found(pointer, tmp_path):
    write_checkpoints(tmp_path)
    if POINTERS[pointer] is not None:
        (tmp_path / "last_checkpoint").write_text(POINTERS[pointer].format(folder=tmp_path))
    assert find_checkpoint_to_resume(tmp_path) == str(tmp_path / "iter_20.pth")


def test_a_whole_checkpoint_that_is_pointed_to_comes_first(tmp_path):
    write_checkpoints(tmp_path)
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_10.pth"))
    assert find_checkpoint_to_resume(tmp_path) == str(tmp_path / "iter_10.pth")
    (tmp_path / "last_checkpoint").write_text("s3://bucket/iter_5.pth")
    assert find_checkpoint_to_resume(tmp_path) == "s3://bucket/iter_5.pth"


def test_checkpoints_in_a_folder_of_their_own(tmp_path):
    work_dir, out_dir = tmp_path / "runs" / "mine", tmp_path / "checkpoints"
    (out_dir / "mine").mkdir(parents=True)
    work_dir.mkdir(parents=True)
    write_checkpoints(out_dir / "mine")
    found = find_checkpoint_to_resume(work_dir, out_dir)
    assert found == str(out_dir / "mine" / "iter_20.pth")


def test_without_a_whole_checkpoint(tmp_path):
    assert find_checkpoint_to_resume(tmp_path) is None
    assert find_checkpoint_to_resume(tmp_path / "nowhere") is None
    (tmp_path / "last_checkpoint").write_text("")
    assert find_checkpoint_to_resume(tmp_path) is None
    (tmp_path / "iter_1.pth").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"can be resumed from: .*iter_1\.pth"):
        find_checkpoint_to_resume(tmp_path)


def configs_of_the_project():
    folder = CONFIGS
    return sorted(path for path in folder.rglob("*.py") if "_base_" not in path.parts)


def test_every_config_keeps_its_checkpoints_through_a_kill():
    wrong = {}
    for path in configs_of_the_project():
        hook = Config.fromfile(path).default_hooks.checkpoint
        if HOOKS.get(hook.type) is not AtomicCheckpointHook:
            wrong[path.name] = hook.type
    assert not wrong
    assert len(configs_of_the_project()) > 40
    for path in CONFIGS.rglob("*.py"):
        assert '"CheckpointHook"' not in path.read_text(), path


# Some gradients are zero but for rounding (those of the keys' bias), and AdamW would turn their
# signs into steps; a large eps keeps them what they are. A batch norm over the two pooled pixels
# of a batch would do the same to their difference, so the heads have group norms.
ADAMW = {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.01, "eps": 1e-4}
NO_DECAY = {"decay_mult": 0.0}
OFFICIAL = {
    "custom_keys": {
        "absolute_pos_embed": NO_DECAY,
        "relative_position_bias_table": NO_DECAY,
        "norm": NO_DECAY,
    }
}
BY_NAME = {"custom_keys": {"attn.w_msa": {"lr_mult": 2.0}, "ffn": NO_DECAY}}


@pytest.mark.parametrize(
    ("paramwise_cfg", "use_abs_pos_embed", "frozen_stages"),
    [
        (None, False, -1),
        (OFFICIAL, True, -1),
        (OFFICIAL, True, 1),
        (BY_NAME, False, 0),
    ],
)
def test_a_run_of_mmsegs_backbone_is_continued(
    scenes, tmp_path, paramwise_cfg, use_abs_pos_embed, frozen_stages
):
    """Weights and moments go over, so both end where mmseg's alone does, but for rounding."""
    options = {"drop_rate": 0.0, "drop_path_rate": 0.0, "use_abs_pos_embed": use_abs_pos_embed}
    options["frozen_stages"] = frozen_stages
    if use_abs_pos_embed:
        options["pretrain_img_size"] = 32  # mmseg's takes no other

    def run(name, kind, **more):
        backbone = {**options, "type": kind}
        config = tiny_config(scenes, tmp_path / name, steps=10, backbone=backbone, **more)
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
        config.default_hooks.checkpoint.update(interval=5, save_best=None, max_keep_ckpts=-1)
        config.model.decode_head.norm_cfg = {"type": "GN", "num_groups": 4}
        config.optim_wrapper.update(paramwise_cfg=paramwise_cfg, optimizer=ADAMW)
        return train(config).model

    run("theirs", "SwinTransformer")
    before, after = (read(tmp_path / "theirs", f"iter_{step}.pth") for step in (5, 10))
    resume = {"resume": True, "load_from": str(tmp_path / "theirs/iter_5.pth")}
    model = run("ours", "SwinBackbone", **resume)
    continued = read(tmp_path / "ours", "iter_10.pth")
    for tensors, in_our_names in ((before, {}), (after, {})):
        model.load_state_dict(tensors["state_dict"])
        in_our_names.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        tensors["state_dict"] = in_our_names
    assert_same_state(after, continued, tolerance=1e-5)
    weight = "backbone.stages.1.blocks.1.attn.qkv.weight"
    progress = after["state_dict"][weight] - before["state_dict"][weight]
    assert progress.abs().max() > 1e-3  # so the tolerance means something


def test_load_from_a_whole_segmentor_of_mmseg(scenes, tmp_path):
    theirs = train(tiny_config(scenes, tmp_path / "a", 1, backbone={"type": "SwinTransformer"}))
    checkpoint = str(tmp_path / "a" / "iter_1.pth")
    ours = train(tiny_config(scenes, tmp_path / "b", 0, load_from=checkpoint))
    images = torch.rand(1, 3, 64, 64)
    theirs.model.eval()
    ours.model.eval()
    torch.testing.assert_close(ours.model(images), theirs.model(images), rtol=1e-4, atol=1e-5)
    report = ours.model.backbone.checkpoint_report
    assert report.layout == "mmseg/mmdet"
    assert not report.missing
    assert not report.unexpected
