"""What the project declares: the packages that it imports, and one version everywhere."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import swin_backbone

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Distributions of packages that are imported by another name.
DISTRIBUTIONS = {
    "PIL": {"pillow"},
    "cv2": {"opencv-python", "opencv-python-headless"},
    "huggingface_hub": {"huggingface-hub"},
    "mmcv": {"onedl-mmcv", "mmcv-lite"},
    "mmdet": {"onedl-mmdetection", "mmdet"},
    "mmengine": {"onedl-mmengine", "mmengine"},
    "mmseg": {"onedl-mmsegmentation", "mmsegmentation"},
    "mkdocs": {"mkdocs-material"},  # which is a theme of it, and needs it
    "sklearn": {"scikit-learn"},
    "yaml": {"pyyaml"},
}
#: What a plain installation imports: no optional package at the head of these modules.
CORE = ("ops", "model", "checkpoints")
#: Imported when they are first used, as attributes, where there is Triton.
KERNELS = ("swin_backbone/ops/triton/", "swin_backbone/ops/triton/kernels/")
FOLDERS = ("tools", "benchmarks", "docs", "examples")
#: With what tests share, which figures of the docs use.
OWN = {
    "swin_backbone",
    *(
        path.stem
        for name in (*FOLDERS, "docs/figures", "tests")
        for path in (ROOT / name).iterdir()
    ),
}
FILES = sorted(path for name in ("swin_backbone", *FOLDERS) for path in (ROOT / name).rglob("*.py"))


def names(requirements):
    """Normalised names of distributions, with those of the project's extras among them."""
    found = set()
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        if name == PROJECT["name"]:
            for extra in requirement.extras:
                found |= names(PROJECT["optional-dependencies"][extra])
        else:
            found.add(name)
    return found


DEPENDENCIES = names(PROJECT["dependencies"])
EXTRAS = {extra: names(needs) for extra, needs in PROJECT["optional-dependencies"].items()}


def imported(nodes) -> Iterator[str]:
    """Top-level names of packages that are neither the project's nor Python's."""
    for node in nodes:
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module]
        for module in modules:
            top = module.partition(".")[0]
            if top not in OWN | sys.stdlib_module_names:
                yield top


def distributions(package):
    return DISTRIBUTIONS.get(package, {canonicalize_name(package)})


def parsed():
    for path in FILES:
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def test_every_import_is_declared():
    declared = DEPENDENCIES.union(*EXTRAS.values())
    missing = {
        (package, file)
        for file, tree in parsed()
        for package in imported(ast.walk(tree))
        if not distributions(package) <= declared  # of both lines
    }
    assert not missing


def test_the_core_imports_only_what_every_installation_has():
    missing = {
        (package, file)
        for file, tree in parsed()
        if file.startswith(tuple(f"swin_backbone/{name}/" for name in CORE))
        for package in imported(tree.body)
        if not distributions(package) <= DEPENDENCIES
        and not (package == "triton" and file.startswith(KERNELS))
    }
    assert not missing


def test_extras_that_errors_name_hold_what_is_missing():
    seen = set()
    for file, tree in parsed():
        for node in ast.walk(tree):
            call = node.items[0].context_expr if isinstance(node, ast.With) else None
            if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "from_extra":
                continue
            extra = call.args[0].value
            for package in imported(node.body):
                assert distributions(package) & EXTRAS[extra], f"{file}: {package}, {extra}"
            seen.add(extra)
    assert {"demo", "export", "features", "probe", "ray"} <= seen


def test_every_extra_is_explained():
    page = (ROOT / "docs" / "installation.md").read_text()
    unexplained = [name for name in EXTRAS if f"`{name}`" not in page and f"[{name}]" not in page]
    assert unexplained == []


def test_one_version():
    version = swin_backbone.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == version


def test_templates_ask_for_the_environment():
    templates = [*(ROOT / ".github").rglob("*.md"), *(ROOT / ".github").glob("*/bug*.yml")]
    assert len(templates) >= 2
    for template in templates:
        assert "swin-backbone env" in template.read_text(), template


def test_the_index_of_models_lists_every_config_with_what_was_published():
    index = yaml.safe_load((ROOT / "model-index.yml").read_text())
    models = {model["Name"]: model for model in index["Models"]}
    names = {Path(name).name: name for name in swin_backbone.list_configs()}
    assert {model["Config"] for model in models.values()} == {
        f"configs/{name}.py" for name in names.values()
    }
    published = {}
    for file in (ROOT / "configs").rglob("published.yaml"):
        published |= yaml.safe_load(file.read_text())["configs"]
    for name, model in models.items():
        results = model.get("Results", [])
        numbers = [
            value
            for source in published.get(name, {}).values()
            for key in ("mIoU", "box", "mask", "PQ")
            for value in (source.get(key, []) if key == "mIoU" else [source.get(key)])
            if value is not None
        ]
        found = [value for result in results for value in result["Metrics"].values()]
        assert sorted(found) == sorted(numbers)
        assert all(result["Published By"] for result in results)
        assert ("not measured here" in model["Metadata"].get("Results", "")) == bool(results)
