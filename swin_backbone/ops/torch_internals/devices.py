"""What torch does on a GPU in fewer steps than its public functions."""

from __future__ import annotations

import torch
from torch import Tensor

from .choosing import choose


def _addmm_then_relu(bias: Tensor, rows: Tensor, matrix: Tensor) -> Tensor:
    return torch.addmm(bias, rows, matrix).relu_()


def _clips(operator: object) -> bool:
    bias, rows, matrix = (torch.tensor(x, device="cpu") for x in ([-1.0], [[2.0], [0.5]], [[1.0]]))
    return torch.equal(operator(bias, rows, matrix), _addmm_then_relu(bias, rows, matrix))


#: ``relu(bias + rows @ matrix)``, by one kernel of cuBLAS on a GPU.
addmm_relu = choose("torch._addmm_activation", _clips, _addmm_then_relu)


#: Index of the current GPU. Torch's public function first asks whether CUDA was started, which
#: whoever has a tensor there did. To try it would start CUDA, after which no process may fork.
current_device = choose(
    "torch._C._cuda_getDevice", lambda function: None, torch.cuda.current_device
)
