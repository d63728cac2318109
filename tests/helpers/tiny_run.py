"""A tiny training run on generated scenes, as a config and as a script that can be killed."""

import argparse
import os
import signal
import sys
import threading
import uuid

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

import swin_backbone  # noqa: F401 (registers what the config names)

BACKBONE = {
    "type": "SwinBackbone",
    "embed_dims": 16,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "strides": (4, 2),
    "out_indices": (0, 1),
    "window_size": 4,
    "drop_rate": 0.1,
    "drop_path_rate": 0.3,
}
HEAD = {
    "type": "UPerHead",
    "in_channels": [16, 32],
    "in_index": [0, 1],
    "pool_scales": (1, 2),
    "channels": 16,
    "num_classes": 3,
    "dropout_ratio": 0.1,
    "norm_cfg": {"type": "BN"},
}
AUGMENTATION = [
    {"type": "RandomResize", "scale": (64, 48), "ratio_range": (0.7, 1.5), "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": (32, 32), "cat_max_ratio": 0.75},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PhotoMetricDistortion"},
]
LOAD, LABELS, PACK = (
    {"type": name} for name in ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")
)


def dataset(root, split, pipeline, classes=("ground", "box", "disc"), **options):
    """Config of a stock dataset in ``img_dir`` and ``ann_dir``."""
    prefix = {"img_path": f"img_dir/{split}", "seg_map_path": f"ann_dir/{split}"}
    return {
        "type": "BaseSegDataset",
        "data_root": str(root),
        "data_prefix": prefix,
        "metainfo": {"classes": classes},
        "pipeline": pipeline,
        **options,
    }


def tiny_config(data, work_dir, steps=14, num_workers=0, backbone=(), **options):
    """Config of a run of the smallest sensible segmentor.

    Args:
        backbone: changes to :data:`BACKBONE`.
        options: changes to the config itself.
    """
    config = {
        "default_scope": "mmseg",
        "work_dir": str(work_dir),
        "experiment_name": f"tiny-{uuid.uuid4().hex}",  # several runs may share a process
        "randomness": {"seed": 3},
        "model": {
            "type": "EncoderDecoder",
            "data_preprocessor": {
                "type": "SegDataPreProcessor",
                "mean": [123.0, 117.0, 104.0],
                "std": [58.0, 57.0, 57.0],
                "bgr_to_rgb": True,
                "pad_val": 0,
                "seg_pad_val": 255,
                "size": (32, 32),
            },
            "backbone": {**BACKBONE, **dict(backbone)},
            "decode_head": HEAD,
            "test_cfg": {"mode": "whole"},
        },
        "train_dataloader": {
            "batch_size": 2,
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
            "dataset": dataset(data, "train", [LOAD, LABELS, *AUGMENTATION, PACK]),
        },
        "val_dataloader": {
            "batch_size": 1,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": dataset(data, "val", [LOAD, LABELS, PACK], test_mode=True),
        },
        "val_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": 5},
        "val_cfg": {"type": "ValLoop"},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.01},
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 4, "by_epoch": False},
            {"type": "PolyLR", "power": 1.0, "begin": 4, "end": max(steps, 5), "by_epoch": False},
        ],
        "default_hooks": {
            "checkpoint": {
                "type": "AtomicCheckpointHook",
                "by_epoch": False,
                "interval": 3,
                "max_keep_ckpts": 1,
                "save_best": "mIoU",
            },
        },
        "custom_hooks": [{"type": "StepSeedHook"}, {"type": "LabelCheckHook"}],
        "log_level": "WARNING",
    }
    return Config({**config, **options})


@HOOKS.register_module()
class DieHook(Hook):
    """SIGKILL to the own process, some time after a step has begun.

    Args:
        rank: the process that dies.
    """

    def __init__(self, step, delay, rank=0):
        self.step, self.delay, self.rank = step, delay, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.step and get_rank() == self.rank:
            threading.Timer(self.delay, _die).start()


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _die_when_placing(name):
    """SIGKILL between writing a file and giving it its name."""
    replace = os.replace

    def replace_or_die(source, target):
        if os.path.basename(target) == name:
            _die()
        replace(source, target)

    os.replace = replace_or_die


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("work_dir")
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-at", type=float, nargs=2, metavar=("STEP", "SECONDS"))
    parser.add_argument("--die-when-placing", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = tiny_config(args.data, args.work_dir, num_workers=args.num_workers, resume=args.resume)
    if args.die_at:
        step, delay = args.die_at
        config.custom_hooks.append({"type": "DieHook", "step": int(step), "delay": delay})
    if args.die_when_placing:
        _die_when_placing(args.die_when_placing)
    Runner.from_cfg(config).train()


if __name__ == "__main__":
    sys.exit(main())
