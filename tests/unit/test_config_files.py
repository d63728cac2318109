"""Names of the project's configs, and where they lie in a wheel and in a checkout."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from helpers.paths import CONFIGS

import swin_backbone
from swin_backbone import config_files, config_path, list_configs


@pytest.mark.parametrize("bases", [False, True])
def test_every_file_has_a_name_that_leads_to_it(bases):
    names = list_configs(bases)
    files = {path for path in CONFIGS.rglob("*.py") if ("_base_" in path.parts) == bases}
    assert {CONFIGS / f"{name}.py" for name in names} == files
    for name in names:
        assert Path(config_path(name)) == CONFIGS / f"{name}.py" == Path(config_path(f"{name}.py"))
        if not bases:
            assert Path(config_path(name.rpartition("/")[2])) == CONFIGS / f"{name}.py"


@pytest.mark.parametrize("length", [6, 12, 20])
def test_a_part_leads_to_the_only_config_that_holds_it(length):
    names = list_configs()
    for name in names:
        part = name[-length:]
        holders = [other for other in names if part in other]
        if len(holders) == 1:
            assert Path(config_path(part)) == CONFIGS / f"{name}.py"
        else:
            with pytest.raises(ValueError, match=f"part of {len(holders)} configs: {holders[0]}"):
                config_path(part)


def test_a_wrong_name_says_what_is_near():
    name = "swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512"
    with pytest.raises(
        ValueError, match=f"'.*' is no config of swin_backbone; near it: swin/{name}"
    ):
        config_path(name.replace("tiny", "tinny"))
    with pytest.raises(ValueError, match="near it: _base_/schedules/schedule_80k"):
        config_path("_base_/schedule/schedule_80k")
    for name in ("", "nothing of the kind", "../pyproject", "demo_runtime"):
        with pytest.raises(ValueError, match="is no config"):
            config_path(name)
    with pytest.raises(TypeError, match="name must be a string, got PosixPath"):
        config_path(Path("swin"))


def test_it_serves_as_a_base(tmp_path):
    from mmengine.config import Config

    mine = tmp_path / "mine.py"
    mine.write_text(
        "_base_ = [__import__('swin_backbone').config_path('upernet_demo-112x112')]\n"
        "model = dict(backbone=dict(drop_path_rate=0.25))\n"
    )
    backbone = Config.fromfile(mine).model.backbone
    assert backbone.type == swin_backbone.SwinBackbone.__name__
    assert backbone.drop_path_rate == 0.25


@pytest.mark.parametrize("packed", [True, False], ids=["wheel", "checkout"])
def test_configs_are_found_beside_an_installed_package(tmp_path, packed):
    """The module alone, at another place, as a wheel and as a checkout lay it out."""
    package = tmp_path / "place" / "swin_backbone"
    package.mkdir(parents=True)
    copy = shutil.copy(config_files.__file__, package)
    spec = importlib.util.spec_from_file_location("elsewhere", copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(FileNotFoundError, match=r"configs of swin_backbone are neither in .*place"):
        module.config_path("demo")

    folder = (package / ".mim" if packed else package.parent) / "configs"
    for name in ("_base_/models/head.py", "swin/one.py"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    assert module.config_path("one") == str(folder / "swin" / "one.py")
    assert module.config_path("_base_/models/head") == str(folder / "_base_/models/head.py")
