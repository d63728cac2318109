"""Accelerated encoders of other libraries in DDP, FSDP and fully_shard, in two processes."""

import json

import pytest
from helpers import wrapped_encoders
from helpers.made_once import made_once
from helpers.tools import torchrun
from helpers.wrapped_encoders import ENCODERS, ORDERS, WRAPPERS

for package in ("transformers", "timm", "torchvision", "mmseg"):
    pytest.importorskip(package)
SHARDED = "its weights are sharded: accelerate first, and shard then"


@pytest.fixture(scope="module")
def results(tmp_path_factory, script_environment):
    """What both processes found, by rank."""

    def make(folder):
        script, out = wrapped_encoders.__file__, folder / "results.json"
        torchrun(script, out, environment=script_environment)

    return json.loads((made_once(tmp_path_factory, "wrapped", make) / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("name", "version"), ENCODERS)
def test_steps_are_those_of_the_untouched_model_in_the_same_wrapper(
    results, name, version, wrapper, order
):
    """Losses and weights of three steps of AdamW, in float64; it divides what is near zero, such as
    gradients of the keys' biases, by what is near zero. What is sharded already is left alone."""
    for rank in results:
        found = rank[f"{name}, {version}"][f"{wrapper}, {order}"]
        assert found["losses"] <= 1e-12
        assert found["weights"] <= 1e-8
        assert found["blocks"] == 4
        too_late = wrapper != "ddp" and order == "after"
        assert found["replaced"] == (0 if too_late else 4)
        assert found["reasons"] == ([SHARDED] if too_late else [])
