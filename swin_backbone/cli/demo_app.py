"""A page on which a dropped image shows what a model makes of it.

    swin-backbone demo-app (CONFIG CHECKPOINT | MODEL.onnx) [...]

Opens on http://127.0.0.1:7860, for this machine alone. Segmentors and detectors; the page shows the
prediction, the principal components of each stage (not of an exported model, which has no maps to
look at) and the time of each step.
"""

from __future__ import annotations

import argparse
import html
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..device_memory import give_back_memory, is_out_of_memory
from ..extras import from_extra
from ..inference.finders import CheckpointFinder
from ..inference.hosts import HostCheck
from ..inference.painters import Detector, Segmentor, Share, exported_painter
from ..inference.predictors import Sliding
from ..inference.preprocessing import preprocessing_of
from ..inference.uploads import Limits, RefusedError, open_upload, smaller_copy
from ..inference.visualization.feature_maps import principal_colours
from ..openmmlab.mmengine_configs import read_config
from ..openmmlab.whole_models import is_detector
from .argument_types import ModelFiles, number, port
from .argument_types import device as device_type
from .commands import Parser, command

if TYPE_CHECKING:
    import gradio as gr

#: A segmentor sees larger images in tiles, which bound its memory.
TILES = Sliding("auto", window=768, large=768 * 768)
#: Megapixels whose features are pictured; the backbone sees them at once, not in tiles.
PICTURED = 0.25
#: Seconds that uploads and pictures are kept.
KEPT = 600


def load_model(
    config: str, checkpoint: str | None, device: str, allow_missing: bool = False
) -> Segmentor | Detector:
    """The model of a config, of mmdet's scope or else of mmseg's; without a checkpoint, of an
    exported file."""
    if checkpoint is None:
        return exported_painter(config, TILES)
    for name, path in (("config", config), ("checkpoint", checkpoint)):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{name} {path!r} is not a file")
    if is_detector(read_config(config)):
        return Detector(CheckpointFinder(config, checkpoint, device, allow_missing))
    return Segmentor.from_checkpoint(config, checkpoint, device, TILES, allow_missing)


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

    def __init__(self, models: dict[str, Segmentor | Detector], limits: Limits):
        self.models = models
        self.limits = limits

    def answer(self, path: str | None, name: str):
        """Message, image and prediction, shares of the classes as HTML, and pictures of the stages:
        the page's outputs."""
        if path is None:
            return "Drop an image first.", None, "", []
        if name not in self.models:
            return "There is no such checkpoint.", None, "", []
        times: dict[str, float] = {}
        try:
            image = _timed(times, "reading", lambda: open_upload(path, self.limits))
        except RefusedError as refusal:
            return f"**Refused.** {refusal}", None, "", []
        size = f"{image.shape[1]}x{image.shape[0]} pixels"
        copy = smaller_copy(image, self.limits.work_megapixels)
        if copy is not image:
            size += f", seen as {copy.shape[1]}x{copy.shape[0]}"
        del image
        try:
            seen, stages = self._pictures(copy, self.models[name], times)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return f"{size}: more than the memory holds.", None, "", []
        finally:
            give_back_memory()  # others may need it before the next image does
        steps = ", ".join(f"{step} {1e3 * seconds:.0f} ms" for step, seconds in times.items())
        pair = (Image.fromarray(copy), seen.picture)
        return f"{size}: {steps}", pair, as_html(seen.shares), stages

    @staticmethod
    def _pictures(image: np.ndarray, model: Segmentor | Detector, times: dict[str, float]):
        """Prediction and pictures of the stages, and how long each took."""
        bgr = np.ascontiguousarray(image[..., ::-1])
        seen = _timed(times, "prediction", lambda: model.look(bgr))
        if model.network is None:
            return seen, []
        copy = smaller_copy(image, PICTURED)
        return seen, _timed(times, "features", lambda: stage_pictures(model.network, copy))

    def build(self) -> gr.Blocks:
        """The page."""
        gr = _gradio()
        names = list(self.models)
        cache = (KEPT // 10, KEPT)
        title = "swin_backbone"
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=cache) as page:
            gr.Markdown("# swin_backbone\nDrop an image to see what a model makes of it.")
            with gr.Row():
                upload = gr.File(label="image", file_count="single", type="filepath")
                choice = gr.Dropdown(names, value=names[0], label="checkpoint")
            message = gr.Markdown(elem_id="message")
            with gr.Row():
                prediction = gr.ImageSlider(
                    label="image and prediction", elem_id="prediction", format="png", scale=3
                )
                shares = gr.HTML(elem_id="shares")
            stages = gr.Gallery(label="principal components", elem_id="stages", format="png")
            outputs = [message, prediction, shares, stages]
            for change in (upload.upload, choice.input):
                change(
                    self.answer,
                    [upload, choice],
                    outputs,
                    concurrency_limit=1,  # of both events together: they share the models
                    concurrency_id="models",
                )
        return page


def as_html(shares: Sequence[Share]) -> str:
    """A line for each class: its colour, its name and its share of the image's pixels."""
    rows = "".join(
        f'<tr><td style="background:rgb{one.colour};width:1.2em"></td>'
        f"<td>{html.escape(one.name)}</td>"
        f'<td style="text-align:right">{100 * one.share:.1f} %</td></tr>'
        for one in shares
    )
    return f"<table>{rows}</table>" if rows else "Nothing was found."


def _timed(times: dict[str, float], step: str, work):
    begin = time.perf_counter()
    result = work()
    times[step] = time.perf_counter() - begin
    return result


def _gradio():
    with from_extra("demo"):
        import gradio
    return gradio


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description="A page to try models on images.")
    parser.add_argument(
        "models",
        nargs="+",
        action=ModelFiles,
        metavar="CONFIG CHECKPOINT",
        help="pairs of a config, or its name, and a checkpoint, and exported models, .onnx",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    parser.add_argument("--port", type=port, default=7860)
    size = number(0, above=True)
    parser.add_argument("--max-megabytes", type=size, default=Limits().megabytes)
    parser.add_argument("--max-megapixels", type=size, default=Limits().megapixels)
    parser.add_argument(
        "--work-megapixels",
        type=size,
        default=Limits().work_megapixels,
        help="that models see; of larger images, a smaller copy",
    )
    parser.add_argument(
        "--allow-host",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further names that the page is reached by; requests for others are refused",
    )
    parser.add_argument(
        "--device", type=device_type, help="default: cuda if there is one, else cpu"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="go on where a checkpoint lacks tensors"
    )
    arguments = parser.parse_args(argv)
    _gradio()  # missed before the models are loaded
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    models = {
        _title(config, checkpoint): load_model(config, checkpoint, device, arguments.allow_missing)
        for config, checkpoint in arguments.models
    }
    limits = Limits(arguments.max_megabytes, arguments.max_megapixels, arguments.work_megapixels)
    serve(Page(models, limits), arguments)


def _title(config: str, checkpoint: str | None) -> str:
    """What the page calls a model."""
    if checkpoint is None:
        return Path(config).name
    return f"{Path(config).stem}, {Path(checkpoint).name}"


def serve(page: Page, arguments: argparse.Namespace) -> None:
    """Serve a page until the process is told to end; what was uploaded then goes."""
    gr = _gradio()
    from starlette.middleware import Middleware  # gradio's

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    hosts = Middleware(HostCheck, host=arguments.host, names=arguments.allow_host)
    with tempfile.TemporaryDirectory(prefix="swin_backbone_page_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page.build().launch(
            server_name=arguments.host,
            server_port=arguments.port,
            max_file_size=int(page.limits.megabytes * 1e6),
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            share=False,
            ssr_mode=False,
            app_kwargs={"middleware": [hosts]},
        )
