"""Training reads images as the tools do.

``LoadImageFromFile`` of every config is served by the class below. It gives the pixels of mmcv's
class, whose name it takes over so that configs and the inferencers of mmseg and mmdet, which look
for that name, stay as they are. Beyond that it reads what :mod:`swin_backbone.images` says, and an
image that cannot be read is an error that names it.
"""

from __future__ import annotations

import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS

from ..images import UnreadableImageError, decode_image


class SwinLoadImageFromFile(LoadImageFromFile):
    """Load an image, as all of this package's tools do.

    Takes the arguments of mmcv's ``LoadImageFromFile``. With another ``color_type`` than
    ``'color'``, or another ``imdecode_backend`` than ``'cv2'``, it is that class.

    Raises:
        UnreadableImageError: for an image that cannot be read, unless ``ignore_empty``.
    """

    def transform(self, results: dict) -> dict | None:
        """Add ``img`` (H, W, 3) BGR, ``img_shape`` and ``ori_shape``."""
        if self.color_type != "color" or self.imdecode_backend != "cv2" or self.file_client_args:
            return super().transform(results)
        path = results["img_path"]
        try:
            content = fileio.get(path, backend_args=self.backend_args)
            image = decode_image(content, "BGR")
        except UnreadableImageError as error:
            if self.ignore_empty:
                return None
            raise UnreadableImageError(error.reason, path) from error
        except Exception:
            if self.ignore_empty:
                return None
            raise
        if self.to_float32:
            image = image.astype(np.float32)
        results["img"] = image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


def install_image_loading() -> None:
    """Serve ``LoadImageFromFile`` of every config from here. Idempotent."""
    TRANSFORMS.register_module(name="LoadImageFromFile", module=SwinLoadImageFromFile, force=True)
