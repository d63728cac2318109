"""Whole detectors of this project's configs: each way of running one that a user can choose."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from swin_backbone import accelerate, compile_kernels, ops
from swin_backbone.model.arguments import ARCHITECTURES
from swin_backbone.openmmlab.mmcv_ext import EXTENSION, FallbackFinder

from .runners import Runner, bytes_of_graphs
from .segmentors import Task, train_step

ROOT = Path(__file__).parents[2]
#: By name, the config that is measured; with random weights.
CONFIGS = {
    "mask-rcnn": "swin_det/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-1x_coco.py",
    "dino": "swin_det/dino-4scale_swin-t-p4-w7_8xb2-12e_coco.py",
    "mask2former": "swin/mask2former_swin-t_8xb2-160k_ade20k-512x512.py",
    "cascade": "swin_det/cascade-mask-rcnn_swin-t-p4-w7_fpn_ms-crop-1x_coco.py",
    "retinanet": "swin_det/retinanet_swin-t-p4-w7_fpn_ms-crop-1x_coco.py",
    "atss-dyhead": "swin_det/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py",
    "rtmdet": "swin_det/rtmdet_l_swin_b_4xb32-100e_coco.py",
}
#: Those whose config has another backbone than Swin-T.
BACKBONES = {"atss-dyhead": "Swin-L", "rtmdet": "Swin-B"}
#: Rows and columns of the images of each.
SIZES = dict.fromkeys(CONFIGS, (800, 1344)) | {"mask2former": (512, 512), "rtmdet": (640, 640)}
#: Those of mmseg, whose labels are maps of classes.
SEMANTIC = {"mask2former"}
#: Those whose objects have masks.
WITH_MASKS = {"mask-rcnn", "cascade"}
#: Objects of an image, or classes.
OBJECTS = 12


@dataclass(frozen=True)
class Way:
    """How a detector runs.

    Attributes:
        backbone: its type.
        is_fast: whether the model is accelerated.
        ops: whose ops mmcv calls: ``'PyTorch'``: mmcv's own fallback for deformable attention, and
            torchvision's for boxes unless mmcv is compiled; ``'compiled'``: those of a compiled
            mmcv; ``'installed'``: whatever there is, which is this package's where mmcv has none.
        graphs: whether backbone and neck are replayed as CUDA graphs.
    """

    backbone: str
    is_fast: bool = False
    ops: str = "installed"
    graphs: bool = False

    def called_ops(self, device: str) -> str:
        """Whose ops run, for the table."""
        ours = "compiled mmcv" if has_compiled_ops() else "swin_backbone"
        if self.is_fast:
            return "swin_backbone"
        in_bfloat16 = self.dtype(device) == "bfloat16"
        by_pytorch = self.ops == "PyTorch" or (in_bfloat16 and leaves_16_bits())
        boxes = "torchvision" if self.ops == "PyTorch" and not has_compiled_ops() else ours
        return f"attention: {'PyTorch' if by_pytorch else ours}, boxes: {boxes}"

    def dtype(self, device: str) -> str:
        """What autocast computes in; ops of a compiled mmcv take no bfloat16."""
        if device != "cuda":
            return "float32"
        return "float16" if has_compiled_ops() and not self.is_fast else "bfloat16"


WAYS = {
    "mmdet": Way("SwinTransformer", ops="PyTorch"),
    "mmdet, compiled ops": Way("SwinTransformer", ops="compiled"),
    "mmdet, accelerated": Way("SwinTransformer", is_fast=True),
    "SwinBackbone": Way("SwinBackbone"),
    "SwinBackbone, accelerated": Way("SwinBackbone", is_fast=True),
    "SwinBackbone, accelerated, graphs": Way("SwinBackbone", is_fast=True, graphs=True),
}


def has_compiled_ops() -> bool:
    """Whether mmcv's compiled extension is really there, and not served by this package."""
    spec = find_spec(EXTENSION)
    return spec is not None and not isinstance(spec.loader, FallbackFinder)


def leaves_16_bits() -> bool:
    """Whether mmcv takes PyTorch for attention in bfloat16, compiled or not."""
    from mmcv.ops import MultiScaleDeformableAttention

    return "bfloat16" in inspect.getsource(inspect.unwrap(MultiScaleDeformableAttention.forward))


@contextmanager
def pytorch_ops() -> Iterator[None]:
    """Deformable attention by mmcv's PyTorch implementation, suppression by torchvision."""
    from mmcv.ops import multi_scale_deform_attn as attention

    class ByPyTorch:
        @staticmethod
        def apply(value, shapes, level_start_index, locations, weights, im2col_step) -> Tensor:
            sample = attention.multi_scale_deformable_attn_pytorch
            return sample(value, shapes, locations, weights)

    with ExitStack() as stack:
        for place, name, value in (
            (attention, "MultiScaleDeformableAttnFunction", ByPyTorch),
            (ops.dispatch, "suppression", lambda boxes: "torchvision"),
        ):
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, value)
        yield


def read_config(name: str):
    """The config of a detector."""
    from mmengine.config import Config

    return Config.fromfile(ROOT / "configs" / CONFIGS[name])


def build_detector(name: str, backbone: str) -> nn.Module:
    """The detector of a config, with mmdet's backbone or ours."""
    from mmengine.registry import MODELS, DefaultScope

    config, scope = read_config(name).model, "mmseg" if name in SEMANTIC else "mmdet"
    _register(scope)
    config.backbone.pop("init_cfg", None)
    if backbone == "SwinTransformer":
        sizes = ARCHITECTURES[config.backbone.pop("arch", "tiny")]
        sizes = dict(zip(("embed_dims", "depths", "num_heads"), sizes, strict=True))
        config.backbone = {**sizes, **config.backbone, "type": backbone}
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(config)
        model.init_weights()
    return model


def _register(scope: str) -> None:
    import mmdet.models  # noqa: F401

    if scope == "mmseg":
        from mmseg.utils import register_all_modules

        register_all_modules(init_default_scope=False)


def draw_samples(task: Task, device: str) -> list:
    """Data samples of a task's images: objects, or maps of classes."""
    return (draw_classes if task.arch in SEMANTIC else draw_objects)(task, device)


def draw_classes(task: Task, device: str) -> list:
    """Data samples with label maps of :data:`OBJECTS` classes, constant in squares."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    side, samples = 32, []
    rows, columns = (-(-length // side) for length in task.size)
    meta = {"img_shape": task.size, "pad_shape": task.size, "ori_shape": task.size}
    for _ in range(task.batch):
        classes = torch.randperm(150)[:OBJECTS]
        squares = classes[torch.randint(OBJECTS, (rows, columns))].to(device)
        labels = squares.repeat_interleave(side, 0).repeat_interleave(side, 1)
        sample = SegDataSample(metainfo=meta)
        sample.gt_sem_seg = PixelData(data=labels[None, : task.size[0], : task.size[1]].clone())
        samples.append(sample)
    return samples


def draw_objects(task: Task, device: str) -> list:
    """Data samples with boxes and labels, and of detectors that find masks with those."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    rows, columns = task.size
    meta = {"img_shape": task.size, "ori_shape": task.size, "pad_shape": task.size}
    meta |= {"batch_input_shape": task.size, "scale_factor": (1.0, 1.0)}
    samples = []
    for _ in range(task.batch):
        sides = torch.rand(OBJECTS, 2) * 0.3 + 0.05
        size = torch.tensor([columns, rows])
        corner = torch.rand(OBJECTS, 2) * (1 - sides)
        boxes = torch.cat([corner * size, (corner + sides) * size], 1)
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=boxes.to(device),
            labels=torch.randint(80, (OBJECTS,), device=device),
        )
        if task.arch in WITH_MASKS:
            sample.gt_instances.masks = ellipses(boxes, task.size)
        sample.ignored_instances = InstanceData(
            bboxes=boxes[:0].to(device), labels=torch.zeros(0, dtype=torch.long, device=device)
        )
        samples.append(sample)
    return samples


def ellipses(boxes: Tensor, size: tuple[int, int]):
    """Masks of objects that fill their boxes, as numpy holds them."""
    import numpy as np
    from mmdet.structures.mask import BitmapMasks

    rows, columns = size
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    masks = []
    for x1, y1, x2, y2 in boxes.tolist():
        across, down = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
        masks.append(across**2 + down**2 < 1)
    return BitmapMasks(np.stack(masks).astype(np.uint8), rows, columns)


def detector_runner(name: str, task: Task, device: str, compiles_ahead: bool = True) -> Runner:
    """A :class:`Runner` of one of :data:`WAYS`; the task's architecture is a detector's name.

    Kernels are compiled together unless ``compiles_ahead`` is false, and else as they start.

    Raises:
        RuntimeError: if the way needs a compiled mmcv, or a GPU for graphs, and there is none.
    """
    way = WAYS[name]
    if way.ops == "compiled" and not has_compiled_ops():
        raise RuntimeError("mmcv has no compiled ops here")
    if way.graphs and device != "cuda":
        raise RuntimeError("CUDA graphs need a GPU")
    torch.manual_seed(0)
    model = build_detector(task.arch, way.backbone).to(device)
    dtype = getattr(torch, way.dtype(device))
    if way.is_fast:
        accelerate(model, graphs=way.graphs)
    images = torch.randn(task.batch, 3, *task.size, device=device)
    samples = draw_samples(task, device)
    if task.mode == "predict":
        step = run = _predict_step(model.eval(), images, samples, device, dtype)
    else:

        def losses() -> Tensor:
            found = model.loss(images, samples)
            values = [value for key, value in found.items() if "loss" in key]
            return sum(sum(v) if isinstance(v, list) else v.mean() for v in values)

        step = train_step(model.train(), losses, device, dtype)

        def run() -> None:
            with torch.autocast(device, dtype, enabled=device == "cuda"):
                loss = losses()
            loss.backward()

    with_ops = pytorch_ops if way.ops == "PyTorch" else nullcontext
    if compiles_ahead:
        _compile(model, _within(with_ops, run))
    step = _within(with_ops, step)
    return Runner(name, model, images, step, held_bytes=lambda: bytes_of_graphs(model))


def _within(context: Callable, function: Callable) -> Callable:
    def step():
        with context():
            return function()

    return step


def _compile(model: nn.Module, run: Callable[[], object]) -> None:
    """Compile the kernels together; where a step does not go through without them, one by one."""
    try:
        compile_kernels(model, run)
    except Exception as error:
        print(f"kernels are compiled as they start: {type(error).__name__}: {error}", flush=True)


def _predict_step(model: nn.Module, images: Tensor, samples: list, device: str, dtype: torch.dtype):
    options = {} if hasattr(model, "encode_decode") else {"rescale": False}

    def step() -> list:
        with torch.no_grad(), torch.autocast(device, dtype, enabled=device == "cuda"):
            return model.predict(images, [sample.clone() for sample in samples], **options)

    return step
