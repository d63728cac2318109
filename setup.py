"""Packaging of swin_backbone."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION: dict = {}
exec((HERE / "swin_backbone" / "version.py").read_text(), VERSION)

ONEDL = ["onedl-mmengine>=0.10.12,<1", "onedl-mmcv>=2.3.6,<3", "onedl-mmsegmentation>=1.4.2,<2"]
CLASSIC = ["mmengine>=0.10.7,<1", "mmcv-lite>=2.1.0,<2.2", "mmsegmentation>=1.2.2,<2"]
# mmsegmentation imports these two without naming them in every release.
MMSEG_NEEDS = ["ftfy", "regex"]
TEST = ["pytest>=8", "pytest-xdist>=3", "hypothesis>=6"]
# Libraries with Swin classes of their own; see the Makefile for mmpretrain.
PEERS = ["timm>=1.0.15", "torchvision", "transformers>=5,<6"]
EXPORT = ["onnx", "onnxscript", "onnxruntime"]
# Without OpenMMLab, which brings these.
IMAGES = ["opencv-python-headless", "pillow"]
VISUALIZATION = [*IMAGES, "matplotlib"]
FEATURES = ["safetensors", "pyarrow"]
RAY = ["ray[data]", *FEATURES]
DEMO = ["gradio>=5"]
PROBE = ["scikit-learn", *FEATURES]
DOCS = ["mkdocs-material", "mkdocstrings[python]"]
# What the tests need beside the extras that they test.
TEST_TOOLS = ["pandas", "peft>=0.17", "playwright"]

setup(
    name="swin-backbone",
    version=VERSION["__version__"],
    description="Swin Transformer backbones for dense prediction, as a plugin for OpenMMLab",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["swin_backbone", "swin_backbone.*"]),
    python_requires=">=3.10",
    # OpenMMLab is optional, and comes with one of the two lines below: both provide the same names.
    install_requires=["torch>=2.4", "filelock", "numpy", "packaging", "safetensors"],
    extras_require={
        "onedl": [*ONEDL, *MMSEG_NEEDS],
        "openmmlab": [*CLASSIC, *MMSEG_NEEDS],
        "detection": ["onedl-mmdetection>=3.5.1,<4", "torchvision"],
        "openmmlab-detection": ["mmdet>=3.3.0,<4", "torchvision"],
        "export": EXPORT,
        "images": IMAGES,
        "visualization": VISUALIZATION,
        "features": FEATURES,
        "ray": RAY,
        "demo": DEMO,
        "probe": PROBE,
        "docs": DOCS,
        "benchmark": PEERS,
        "hub": ["huggingface_hub"],
        "test": [*TEST, *PEERS, "huggingface_hub"],
        "test-tools": [*TEST_TOOLS, *EXPORT, *RAY, *DEMO, *PROBE, *DOCS],
        "dev": [*TEST, *PEERS, "huggingface_hub", "ruff>=0.14"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
