"""A stand-in for a compiled mmcv, whose ops take no bfloat16."""

import importlib
import pkgutil
import sys
import types

import torch

from swin_backbone.openmmlab.served_ops import SERVED

#: Ops whose kernels are compiled for float32 alone.
FLOAT32 = {"nms", "softnms", "nms_match"}


def refusing(name, op, calls):
    """An op that refuses what mmcv's kernels refuse, and notes its calls of others."""

    def compiled(*args, **kwargs):
        refused = {torch.bfloat16} | ({torch.half} if name in FLOAT32 else set())
        for one in (*args, *kwargs.values()):
            if isinstance(one, torch.Tensor) and one.dtype in refused:
                raise NotImplementedError(f'"{name}" not implemented for {one.dtype}')
        calls.append(name)
        return op(*args, **kwargs)

    return compiled


def install_refusing_ops(monkeypatch, **others):
    """Let all modules of ``mmcv.ops`` call such ops: the served ones, and others by their names.

    Returns:
        The list of names of the ops that were called and took their tensors.
    """
    import mmcv.ops

    extension, calls = types.ModuleType("mmcv._ext"), []
    for name, op in {**SERVED, **others}.items():
        setattr(extension, name, refusing(name, op, calls))
    monkeypatch.setitem(sys.modules, "mmcv._ext", extension)
    for found in pkgutil.iter_modules(mmcv.ops.__path__, "mmcv.ops."):
        module = importlib.import_module(found.name)
        if hasattr(module, "ext_module"):
            monkeypatch.setattr(module, "ext_module", extension)
    return calls
