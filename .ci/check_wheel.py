"""Check an installed wheel from outside the checkout: run by smoke_wheel."""

import contextlib
import io
import sys
from pathlib import Path

import torch
import yaml
from mmengine.config import Config

import swin_backbone
from swin_backbone.cli import main
from swin_backbone.cli.entry import COMMANDS
from swin_backbone.config_files import configs_folder

package = Path(swin_backbone.__file__).parent
assert Path(sys.prefix) in package.parents, f"{package} is not the wheel's"
assert (package / "py.typed").is_file()
packed = package / ".mim"
assert configs_folder() == packed / "configs"

names = swin_backbone.list_configs()
for name in names:  # bases are read with them
    assert Config.fromfile(swin_backbone.config_path(name)).model, name
for name in swin_backbone.list_configs(bases=True):
    Config.fromfile(swin_backbone.config_path(name))
index = yaml.safe_load((packed / "model-index.yml").read_text())
assert {model["Config"] for model in index["Models"]} == {f"configs/{name}.py" for name in names}

Path("mine.py").write_text(
    '_base_ = [__import__("swin_backbone").config_path("upernet_demo-112x112")]\n'
    "model = dict(backbone=dict(drop_path_rate=0.25))\n"
)
backbone = Config.fromfile("mine.py").model.backbone
assert (backbone.type, backbone.drop_path_rate) == ("SwinBackbone", 0.25)

maps = swin_backbone.create("tiny")(torch.zeros(1, 3, 33, 47))
assert [x.shape[1] for x in maps] == [96, 192, 384, 768]
print(f"{len(names)} configs of the wheel are read")

for name in COMMANDS:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([name, "--help"])
    assert printed.getvalue().startswith(f"usage: swin-backbone {name}"), name
print(f"{len(COMMANDS)} commands say what they take")
