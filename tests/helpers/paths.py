"""Folders of the checkout that is tested."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
CONFIGS = ROOT / "configs"
DETECTION_CONFIGS = CONFIGS / "swin_det"
DOCS = ROOT / "docs"
TOOLS = ROOT / "tools"
BENCHMARKS = ROOT / "benchmarks"
