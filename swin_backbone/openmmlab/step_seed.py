"""Random numbers of a training step that depend on nothing but the seed and the step."""

from __future__ import annotations

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seed torch's generators from (seed, rank, iteration) before each training step.

    Dropout and stochastic depth then draw the same numbers whether a run was interrupted or
    not, so a run that is killed and resumed reaches the weights of an unbroken one. mmengine
    resumes everything else: weights, optimizer, schedules, and the order of the data.
    """

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        # Mixed into 64 bits, so that neighbouring seeds, ranks and steps share nothing.
        mixed = hash((int(runner.seed), get_rank(), int(runner.iter)))
        torch.manual_seed(mixed % 2**63)
