"""Decoders of JPEGs that are installed, at full size and at a part of it."""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from PIL import Image

from .data_sets import KINDS, encoded_image

Decode = Callable[[bytes, int], np.ndarray]


def measure_decoders(arguments: argparse.Namespace) -> Iterator[dict]:
    """CPU time of one core, medians; whether pixels are OpenCV's."""
    torch.set_num_threads(1)
    for name, kind in KINDS.items():
        content = encoded_image(kind, seed=0)
        for reduction in (1, 2, 4, 8):
            expected = _by_opencv(content, reduction)
            for decoder, decode in _installed().items():
                try:
                    same = np.array_equal(decode(content, reduction), expected)
                except NotImplementedError:
                    continue
                times = [_seconds(decode, content, reduction) for _ in range(arguments.repeats)]
                milliseconds = 1e3 * statistics.median(times)
                print(f"{name}, {decoder}, 1/{reduction}: {milliseconds:.2f} ms, same bits: {same}")
                yield {
                    "what": "decoder",
                    "data": name,
                    "way": decoder,
                    "part": f"1/{reduction}",
                    "ms": milliseconds,
                    "same bits": same,
                }


def _seconds(decode: Decode, content: bytes, reduction: int) -> float:
    began = time.process_time()
    decode(content, reduction)
    return time.process_time() - began


def _installed() -> dict[str, Decode]:
    found: dict[str, Decode] = {"OpenCV": _by_opencv, "Pillow": _by_pillow}
    try:
        import simplejpeg
    except ModuleNotFoundError:
        pass
    else:

        def by_simplejpeg(content: bytes, reduction: int) -> np.ndarray:
            height, width, *_ = simplejpeg.decode_jpeg_header(content)
            sides = {"min_height": height // reduction, "min_width": width // reduction}
            return simplejpeg.decode_jpeg(content, "BGR", **(sides if reduction > 1 else {}))

        found["simplejpeg"] = by_simplejpeg
    try:
        from torchvision.io import decode_jpeg
    except ImportError:
        return found

    def by_torchvision(content: bytes, reduction: int) -> np.ndarray:
        if reduction > 1:
            raise NotImplementedError
        coded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return decode_jpeg(coded).permute(1, 2, 0).numpy()[..., ::-1]

    found["torchvision"] = by_torchvision
    return found


def _by_opencv(content: bytes, reduction: int) -> np.ndarray:
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags[reduction])


def _by_pillow(content: bytes, reduction: int) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        if reduction > 1:
            image.draft("RGB", (image.width // reduction, image.height // reduction))
        return np.asarray(image)[..., ::-1]
