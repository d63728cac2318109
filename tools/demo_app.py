"""A page on which a dropped image shows what a model makes of it.

    python tools/demo_app.py CONFIG CHECKPOINT [CONFIG CHECKPOINT ...]

Opens on http://127.0.0.1:7860, for this machine alone. Segmentors and detectors; the page shows the
prediction, the principal components of each stage and the time of each step.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import swin_backbone  # noqa: F401  (it lets mmseg import without compiled ops)

# isort: split
import gradio as gr
import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from predictors import CheckpointPredictor, Sliding
from torch import nn
from uploads import Limits, RefusedError, open_upload

from swin_backbone.preprocessing import preprocessing_of
from swin_backbone.visualization import add_legend, paint_overlay
from swin_backbone.visualization.boxes import paint_boxes
from swin_backbone.visualization.maps import principal_colours

#: Boxes below this confidence are not drawn.
CONFIDENCE = 0.3


class SegmentationModel:
    """A segmentor of the page."""

    def __init__(self, config: str, checkpoint: str, device: str):
        self.predictor = CheckpointPredictor(config, checkpoint, device, Sliding())

    @property
    def network(self) -> nn.Module:
        return self.predictor.model

    def picture(self, image: np.ndarray) -> Image.Image:
        """(H, W, 3) uint8 RGB to its segmentation, with a legend."""
        labels = self.predictor.labels(np.ascontiguousarray(image[..., ::-1]))
        names, palette = self.predictor.classes, self.predictor.palette
        found = [index for index in np.unique(labels) if index < len(names)]
        overlay = paint_overlay(image, labels, palette)
        return add_legend(overlay, [names[i] for i in found], [tuple(palette[i]) for i in found])


class DetectionModel:
    """A detector of the page."""

    def __init__(self, config: str, checkpoint: str, device: str):
        from mmdet.apis import init_detector

        self.network = init_detector(config, checkpoint, device=device)

    def picture(self, image: np.ndarray) -> Image.Image:
        """(H, W, 3) uint8 RGB with its boxes."""
        from mmdet.apis import inference_detector

        found = inference_detector(self.network, np.ascontiguousarray(image[..., ::-1]))
        found = found.pred_instances.cpu().numpy()
        found = found[found.scores > CONFIDENCE]
        meta = self.network.dataset_meta
        return paint_boxes(
            image, found.bboxes, found.labels, found.scores, meta["classes"], meta["palette"]
        )


def load_model(config: str, checkpoint: str, device: str) -> SegmentationModel | DetectionModel:
    """The model of a config, of mmdet's scope or else of mmseg's."""
    for name, path in (("config", config), ("checkpoint", checkpoint)):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{name} {path!r} is not a file")
    is_detector = Config.fromfile(config).get("default_scope") == "mmdet"
    return (DetectionModel if is_detector else SegmentationModel)(config, checkpoint, device)


def stage_pictures(network: nn.Module, image: np.ndarray) -> list[tuple[Image.Image, str]]:
    """Principal components of each of the backbone's maps, with captions."""
    preprocessing = preprocessing_of(network.cfg)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    with torch.no_grad():
        device = next(network.parameters()).device
        maps = network.backbone(preprocessing.normalise(pixels.to(device)))
    size = (image.shape[1], image.shape[0])
    return [
        (_enlarge(principal_colours(features[0].cpu()).numpy(), size), f"stage {info.stage}")
        for features, info in zip(maps, network.backbone.features_info, strict=True)
    ]


def _enlarge(colours: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray((colours * 255).round().astype(np.uint8))
    return picture.resize(size, Image.Resampling.NEAREST)


class Page:
    """What happens when an image arrives.

    Args:
        models: by the names that the page lists.
        limits: of uploads.
    """

    def __init__(self, models: dict[str, SegmentationModel | DetectionModel], limits: Limits):
        self.models = models
        self.limits = limits

    def answer(self, path: str | None, name: str):
        """Message, prediction and pictures of the stages, for the page's outputs."""
        if path is None:
            return "Drop an image first.", None, []
        if name not in self.models:
            return "There is no such checkpoint.", None, []
        times = {}
        try:
            image = _timed(times, "reading", lambda: open_upload(path, self.limits))
        except RefusedError as refusal:
            return f"**Refused.** {refusal}", None, []
        model = self.models[name]
        picture = _timed(times, "prediction", lambda: model.picture(image))
        stages = _timed(times, "features", lambda: stage_pictures(model.network, image))
        steps = ", ".join(f"{step} {1e3 * seconds:.0f} ms" for step, seconds in times.items())
        return f"{image.shape[1]}x{image.shape[0]} pixels: {steps}", picture, stages

    def build(self) -> gr.Blocks:
        """The page."""
        names = list(self.models)
        with gr.Blocks(title="swin_backbone", analytics_enabled=False) as page:
            gr.Markdown("# swin_backbone\nDrop an image to see what a model makes of it.")
            with gr.Row():
                upload = gr.File(label="image", file_count="single", type="filepath")
                choice = gr.Dropdown(names, value=names[0], label="checkpoint")
            message = gr.Markdown(elem_id="message")
            prediction = gr.Image(label="prediction", elem_id="prediction", format="png")
            stages = gr.Gallery(label="principal components", elem_id="stages", format="png")
            outputs = [message, prediction, stages]
            for change in (upload.upload, choice.input):
                change(self.answer, [upload, choice], outputs, concurrency_limit=1)
        return page


def _timed(times: dict[str, float], step: str, work):
    begin = time.perf_counter()
    result = work()
    times[step] = time.perf_counter() - begin
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="A page to try models on images.")
    parser.add_argument("models", nargs="+", metavar="CONFIG CHECKPOINT", help="pairs of files")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--max-megabytes", type=float, default=Limits().megabytes)
    parser.add_argument("--max-megapixels", type=float, default=Limits().megapixels)
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    arguments = parser.parse_args()
    if len(arguments.models) % 2:
        parser.error("each CONFIG needs its CHECKPOINT")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pairs = zip(arguments.models[::2], arguments.models[1::2], strict=True)
    models = {
        f"{Path(config).stem}, {Path(checkpoint).name}": load_model(config, checkpoint, device)
        for config, checkpoint in pairs
    }
    limits = Limits(arguments.max_megabytes, arguments.max_megapixels)
    Page(models, limits).build().launch(
        server_name=arguments.host,
        server_port=arguments.port,
        max_file_size=int(arguments.max_megabytes * 1e6),
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        share=False,
    )


if __name__ == "__main__":
    main()
