"""Whole segmentors: one UPerNet, each way of running it that a user can choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from swin_backbone import accelerate, compile_kernels, graph_predictions
from swin_backbone.model.arguments import ARCHITECTURES
from swin_backbone.openmmlab.cuda_graph_hook import CudaGraphHook

from .runners import Runner, Step

CLASSES = 150
#: Labels are constant in squares of so many pixels, as objects make them.
LABEL_SQUARE = 32


@dataclass(frozen=True)
class Task:
    """What is measured.

    Args:
        arch: name of the architecture.
        batch: images at a time.
        mode: ``'train'``: forward, losses, backward, a step of AdamW; ``'predict'``: class maps.
        size: rows and columns of the images, in pixels.
    """

    arch: str
    batch: int
    mode: str
    size: tuple[int, int] = (512, 512)

    @property
    def title(self) -> str:
        rows, columns = self.size
        return f"UPerNet Swin-{self.arch[0].upper()} {rows}x{columns} b{self.batch} {self.mode}"


def build_upernet(arch: str, backbone: str) -> nn.Module:
    """mmseg's UPerNet as its Swin configs have it, with random weights."""
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    embed_dims, depths, num_heads = ARCHITECTURES[arch]
    channels = [embed_dims * 2**stage for stage in range(4)]
    head = {
        "num_classes": CLASSES,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "align_corners": False,
        "dropout_ratio": 0.1,
    }
    config = ConfigDict(
        {
            "type": "EncoderDecoder",
            "data_preprocessor": {"type": "SegDataPreProcessor"},
            "backbone": {
                "type": backbone,
                "embed_dims": embed_dims,
                "depths": depths,
                "num_heads": num_heads,
                "window_size": 7,
                "drop_path_rate": 0.3,
            },
            "decode_head": {
                "type": "UPerHead",
                "in_channels": channels,
                "in_index": [0, 1, 2, 3],
                "pool_scales": (1, 2, 3, 6),
                "channels": 512,
                "loss_decode": {"type": "CrossEntropyLoss"},
                **head,
            },
            "auxiliary_head": {
                "type": "FCNHead",
                "in_channels": channels[2],
                "in_index": 2,
                "channels": 256,
                "num_convs": 1,
                "concat_input": False,
                "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.4},
                **head,
            },
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        }
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(config)


def draw_samples(task: Task, device: str) -> list:
    """Data samples with label maps that are constant in squares, and one in 20 is ignored."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    rows, columns = (-(-side // LABEL_SQUARE) for side in task.size)
    samples = []
    for _ in range(task.batch):
        labels = torch.randint(CLASSES, (rows, columns), device=device)
        labels[torch.rand(rows, columns, device=device) < 0.05] = 255
        labels = labels.repeat_interleave(LABEL_SQUARE, 0).repeat_interleave(LABEL_SQUARE, 1)
        sample = SegDataSample(
            metainfo={"img_shape": task.size, "pad_shape": task.size, "ori_shape": task.size}
        )
        sample.gt_sem_seg = PixelData(data=labels[None, : task.size[0], : task.size[1]].clone())
        samples.append(sample)
    return samples


def mmseg_runner(task: Task, device: str, name: str) -> Runner:
    """A :class:`Runner` of mmseg's segmentor, one of :data:`WAYS`."""
    backbone, is_fast, how = WAYS[name]
    if how.endswith("graphs") and device != "cuda":
        raise ValueError("CUDA graphs need a GPU")
    model = build_upernet(task.arch, backbone).to(device)
    if is_fast:
        accelerate(model, graphs=how == "backbone graphs")
    images = torch.randn(task.batch, 3, *task.size, device=device)
    samples = draw_samples(task, device)
    if task.mode == "predict":
        step = _predict_step(model, images, samples, device)
        runner = Runner(name, model.eval(), images, step)
        compile_kernels(model, step)
        if how == "graphs":
            runner.held_bytes = graph_predictions(model).recorder.bytes_held
        return runner
    loss, held = model.loss, int
    if how == "compiled":
        loss = torch.compile(model.loss, dynamic=False)
    elif how == "graphs":
        loss, held = _replayed(model)

    def losses(loss: Callable[..., dict] = loss) -> Tensor:
        found = loss(images, samples)
        return sum(value.mean() for key, value in found.items() if "loss" in key)

    compile_kernels(model.train(), lambda: _backward(lambda: losses(model.loss), device))
    step = train_step(model, losses, device)
    return Runner(name, model.train(), images, step, held_bytes=held)


def _replayed(model: nn.Module) -> tuple[Callable, Callable[[], int]]:
    """Losses by CUDA graphs, and how much memory these hold."""
    hook = CudaGraphHook(predictions=False)
    hook.before_train(SimpleNamespace(model=model))

    def loss(images: Tensor, samples: list) -> dict:
        found = model(images, samples, mode="loss")
        if hook.graphs is None or hook.graphs.reason is not None:
            raise RuntimeError(f"no graphs: {hook.graphs and hook.graphs.reason}")
        return found

    return loss, lambda: hook.graphs.recorder.bytes_held()


def transformers_runner(task: Task, device: str, name: str) -> Runner:
    """transformers' UperNet, with the same channels, of the same task."""
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    embed_dims, depths, num_heads = ARCHITECTURES[task.arch]
    backbone = SwinConfig(
        embed_dim=embed_dims,
        depths=list(depths),
        num_heads=list(num_heads),
        window_size=7,
        drop_path_rate=0.3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(
        backbone_config=backbone,
        num_labels=CLASSES,
        hidden_size=512,
        auxiliary_in_channels=embed_dims * 4,
        auxiliary_channels=256,
    )
    model = UperNetForSemanticSegmentation(config).to(device)
    images = torch.randn(task.batch, 3, *task.size, device=device)
    if task.mode == "predict":
        return Runner(name, model.eval(), images, _labels_step(model, images, device))
    labels = torch.stack([s.gt_sem_seg.data[0] for s in draw_samples(task, device)])

    call = torch.compile(model, dynamic=False) if PEERS[name] else model

    def losses() -> Tensor:
        return call(pixel_values=images, labels=labels).loss

    return Runner(name, model.train(), images, train_step(model, losses, device))


def train_step(
    model: nn.Module,
    losses: Callable[[], Tensor],
    device: str,
    dtype: torch.dtype = torch.bfloat16,
) -> Step:
    """On a GPU under autocast in ``dtype``; the loss is scaled in float16."""
    optimizer = torch.optim.AdamW(model.parameters(), 6e-5, fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda" and dtype == torch.float16)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype, enabled=device == "cuda"):
            loss = losses()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


def _backward(losses: Callable[[], Tensor], device: str) -> Tensor:
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        loss = losses()
    loss.backward()
    return loss


def _predict_step(model: nn.Module, images: Tensor, samples: list, device: str) -> Step:
    def step() -> list:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return model.predict(images, [sample.clone() for sample in samples])

    return step


def _labels_step(model: nn.Module, images: Tensor, device: str) -> Step:
    def step() -> Tensor:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return model(pixel_values=images).logits.argmax(dim=1)

    return step


#: Backbone, whether the model is accelerated, and how its ``loss`` runs.
WAYS = {
    "mmseg": ("SwinTransformer", False, "eager"),
    "mmseg, accelerated": ("SwinTransformer", True, "eager"),
    "mmseg, compiled": ("SwinTransformer", False, "compiled"),
    "SwinBackbone": ("SwinBackbone", False, "eager"),
    "SwinBackbone, accelerated": ("SwinBackbone", True, "eager"),
    "SwinBackbone, accelerated, graphs": ("SwinBackbone", True, "graphs"),
    "SwinBackbone, accelerated, graphs of the backbone": ("SwinBackbone", True, "backbone graphs"),
    "SwinBackbone, accelerated, compiled": ("SwinBackbone", True, "compiled"),
}
#: Whether transformers' model is compiled.
PEERS = {"transformers": False, "transformers, compiled": True}
NAMES = (*WAYS, *PEERS)


def make_runner(name: str, task: Task, device: str) -> Runner:
    """The way of that name, ready to run ``task``."""
    make = transformers_runner if name in PEERS else mmseg_runner
    return make(task, device, name)
