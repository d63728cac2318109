"""Random numbers of a training step that depend on nothing but the seed and the step."""

from __future__ import annotations

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .seeded_data import seed_generators, seed_training_data


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Draw every training step's random numbers from (seed, rank, iteration).

    Augmentation, dropout and stochastic depth are then the same whether a run was interrupted
    or not, so a run that is killed and resumed reaches the weights of an unbroken one. mmengine
    resumes everything else: weights, optimizer, schedules, and the order of the images.

    The config must give the seed, ``randomness=dict(seed=...)``. With gradient accumulation,
    checkpoints should be saved at multiples of ``accumulative_counts``, as mmengine does not
    save half-accumulated gradients.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner) -> None:
        """Seed the augmentation of every sample; after loading, so at the resumed step."""
        seed_training_data(runner, (int(runner.seed), get_rank()))

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Seed what the model draws in this step."""
        seed_generators(int(runner.seed), get_rank(), int(runner.iter))
