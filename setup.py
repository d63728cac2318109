"""What pyproject.toml cannot say: configs, tools and the index of models go into the wheel.

They lie in ``swin_backbone/.mim``, where OpenMMLab's packages keep theirs and ``mim`` looks for
them. An editable installation uses the checkout's.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
PACKED = ("configs", "tools", "model-index.yml")


class BuildWithConfigs(build_py):
    """Build the package, and pack beside it what ``mim`` and ``config_path`` look for."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "swin_backbone" / ".mim"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build, files that are now gone
        target.mkdir(parents=True)
        for name in PACKED:
            source = HERE / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, target / name, ignore=ignore)
            else:
                shutil.copyfile(source, target / name)


setup(cmdclass={"build_py": BuildWithConfigs})
