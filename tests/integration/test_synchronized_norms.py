"""Batch norms whose statistics are those of all processes, two of them, against one."""

import json

import pytest
import torch
from helpers import synchronized_processes
from helpers.made_once import made_once
from helpers.synchronized_processes import SHAPES, WAYS
from helpers.tools import torchrun


@pytest.fixture(scope="module")
def results(tmp_path_factory, script_environment):
    """Relative errors of each process."""

    def make(folder):
        script, out = synchronized_processes.__file__, folder / "results.json"
        # mmengine's log looks up a process's GPU in this list, where both may share the one.
        environment = {**script_environment}
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        torchrun(script, out, torch.initial_seed(), environment=environment)

    folder = made_once(tmp_path_factory, "synchronized", make)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_norm_as_one(way, shape, results):
    """Sums of float32, in another order; of two numbers nothing but rounding is left of gradients
    for the map, which is a hundredth of them."""
    for errors in (result[f"{way}, {shape}"] for result in results):
        assert max(errors) < 1e-4, errors
