"""What kernels a model starts, and compiling them for a card that is not there.

    TRITON_INTERPRET=1 python variants_of_kernels.py collect FILE VERSION:WINDOW:DTYPE ...
    python variants_of_kernels.py compile FILE CAPABILITY

Two processes, as Triton reads its variable once: in the interpreter's, launches are written down
instead of started; in the other one, each is compiled. ``compile`` prints a line of JSON a kernel:
its name, constants, bytes of shared memory, and why it does not compile.
"""

import importlib
import json
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

NAMES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int32: "i32", torch.int64: "i64", torch.uint8: "u8", torch.bool: "i1",
}  # fmt: skip


def run_detector_ops(size, dtype):
    """Attention to points, deformable convolution, regions of ``size`` bins and suppression, at a
    detector's channels."""
    from helpers.points import PointCase, draw, with_gradients
    from swin_backbone import ops
    from swin_backbone.ops import deformable_convolution as convolution

    geometry = convolution.Geometry((1, 1), (1, 1), (1, 1), 1)
    sizes = ((2, 256, 8, 8), (256, 256, 3, 3), (2, 18, 8, 8), (2, 9, 8, 8))
    tensors = [torch.randn(one, dtype=dtype) for one in sizes]
    case = PointCase(2, 6, 8, 32, 4, ((4, 6), (2, 3), (1, 2), (1, 1)))
    grad = torch.randn(2, 6, 256, dtype=dtype)
    for exactly in (False, True):
        torch.use_deterministic_algorithms(exactly)
        with_gradients(
            lambda *inputs: ops.multi_scale_deformable_attention(*inputs, impl="triton"),
            *draw(case, dtype), grad,
        )  # fmt: skip
        convolution.deformable_convolution(*tensors, None, geometry)
        convolution.deformable_convolution_gradients(tensors[0], *tensors, geometry)
    torch.use_deterministic_algorithms(False)
    maps = [torch.randn(2, 256, side, side, dtype=dtype, requires_grad=True) for side in (8, 4)]
    rois = torch.tensor([[0, 1, 2, 20, 25], [1, 3, 0, 30, 9.0]])
    levels = torch.tensor([0, 1])
    ops.roi_align(maps, rois, levels, (0.25, 0.125), size, impl="triton").sum().backward()
    for count in (100, 9000):
        boxes, scores = torch.rand(count, 4), torch.rand(count)
        ops.non_maximum_suppression(boxes, scores, 0.5, impl="triton")


def run_segmentor_ops(classes, dtype):
    """Convolutions with norms, alone and of a group of processes, small and large; pools, resizes,
    losses and class maps, at a segmentor's channels; embedding of patches."""
    import torch.distributed as dist
    from torch import nn

    from helpers.patch_cases import draw_embedding, embed_by_kernel
    from swin_backbone import ops
    from swin_backbone.ops import triton

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    step = triton.convolution_norm_op
    for side, kernel_size, group in ((8, 1, None), (48, 3, None), (48, 3, dist.group.WORLD)):
        conv = nn.Conv2d(192, 512, kernel_size, padding=kernel_size // 2, bias=False)
        norm, low = nn.BatchNorm2d(512), conv.weight.detach().to(dtype)
        x = torch.randn(1, 192, side, side, dtype=dtype).to(memory_format=torch.channels_last)
        step.convolution_norm(x, low, conv, norm, True, group).sum().backward()
        step.folded_convolution(x, conv, norm.eval(), True)
    dist.destroy_process_group()
    triton.pool_op.pool(x, (3, 3))
    maps = [x, x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)]
    maps = [one.detach().requires_grad_() for one in maps]
    for one in (
        triton.resize_op.concatenate(maps, (48, 48), False),
        triton.resize_op.add(*maps, False),
    ):
        one.backward(torch.ones_like(one))
    last = maps[1].detach().requires_grad_()
    resized = triton.resize_op.resize(last, 48, 48, False)
    resized.backward(torch.ones_like(resized))
    scores = torch.randn(2, classes, 8, 12, dtype=dtype, requires_grad=True)
    triton.resize_op.resize(scores, 32, 48, False).sum().backward()
    labels = torch.zeros(2, 32, 48, dtype=torch.long)
    for loss in (ops.resized_cross_entropy, ops.resized_binary_cross_entropy):
        loss(scores, labels, ignore_index=255, impl="triton")[0].backward()
    ops.resized_argmax(scores.detach(), ops.Geometry((32, 48)), impl="triton")
    tensors = [tensor.requires_grad_() for tensor in draw_embedding(96, 3, (4, 4))]
    embed_by_kernel(torch.randn(2, 3, 16, 16, dtype=dtype), *tensors).sum().backward()


def collect(path, cases):
    """Write down each variant that a training step and a prediction start."""
    from swin_backbone import SwinBackbone
    from swin_backbone.ops.triton.launch import Launch

    seen = {}

    def write_down(launch, *tensors):
        function = launch.kernel.fn
        variant = {
            "kernel": (function.__module__, function.__name__),
            "arguments": list(launch.kernel.arg_names),
            "dtypes": [NAMES[tensor.dtype] for tensor in tensors],
            "numbers": list(launch.numbers),
            "sizes": sorted(getattr(launch.kernel, "sizes", ())),
            "constants": dict(launch.constants),
            "options": {name: value for name, value in launch.options.items() if value is not None},
        }
        seen.setdefault(json.dumps({**variant, "numbers": []}, default=str), variant)

    Launch.__call__ = write_down
    for case in cases:
        version, window, dtype = case.split(":")
        window, dtype = int(window), getattr(torch, dtype)
        if version in OPERATIONS:
            OPERATIONS[version](window, dtype)
            continue
        model = SwinBackbone(
            arch="tiny", version=version, window_size=window, backend="triton", drop_path_rate=0.2
        )
        images = torch.randn(2, 3, 16 * window, 16 * window + 32)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            sum(m.float().mean() for m in model.train()(images)).backward()
            with torch.no_grad():
                model.eval()(images)
    _distort()
    Path(path).write_bytes(pickle.dumps(list(seen.values())))


#: What heads start beside a backbone, by a case's first word; its second is a number of theirs.
OPERATIONS = {"detector": run_detector_ops, "segmentor": run_segmentor_ops}


def _distort():
    """Start the kernel of photometric distortion in all its ways."""
    from swin_backbone import ops

    images, drawn = torch.zeros(2, 4, 5, 3, dtype=torch.uint8), torch.zeros(2, 7)
    scales = torch.zeros(3), torch.ones(3)
    for swap in (True, False):
        for row in (drawn, None):
            for scale in (scales, (None, None)):
                ops.distort_images(images, row, *scale, swap, impl="triton")


def signature(variant):
    """Types, constants and alignment of a kernel's arguments, as launches have them."""
    types, constants, attributes = {}, dict(variant["constants"]), {}
    dtypes, numbers = iter(variant["dtypes"]), iter(variant["numbers"])
    for index, name in enumerate(variant["arguments"]):
        if name in constants:
            types[name] = "constexpr"
            continue
        pointer = next(dtypes, None)
        number = None if pointer else next(numbers)
        types[name] = f"*{pointer}" if pointer else "fp32" if isinstance(number, float) else "i32"
        if number == 1 and name not in variant["sizes"]:
            types[name], constants[name] = "constexpr", 1
        elif pointer or (
            types[name] == "i32" and number % 16 == 0 and name not in variant["sizes"]
        ):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def compile_for(path, capability):
    """Compile what was written down."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def attempt(variant):
        module, name = variant["kernel"]
        found = {"kernel": name, "constants": variant["constants"], "shared": 0, "error": None}
        try:
            source = ASTSource(getattr(importlib.import_module(module), name), *signature(variant))
            target = GPUTarget("cuda", capability, 32)
            compiled = triton.compile(source, target=target, options=variant["options"])
            return {**found, "shared": compiled.metadata.shared}
        except Exception as error:  # Triton has many ways not to compile
            return {**found, "error": f"{type(error).__name__}: {error}"[:500]}

    variants = pickle.loads(Path(path).read_bytes())
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as executor:
        for found in executor.map(attempt, variants):
            print(json.dumps(found, default=str))


if __name__ == "__main__":
    if sys.argv[1] == "collect":
        collect(sys.argv[2], sys.argv[3:])
    else:
        compile_for(sys.argv[2], int(sys.argv[3]))
