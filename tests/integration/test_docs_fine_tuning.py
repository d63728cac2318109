"""The examples of docs/fine_tuning.md: each fine-tunes from its library's own weights."""

import re

import pytest
import torch
from helpers.paths import DOCS
from helpers.peers import make_theirs
from mmengine.registry import MODELS

from swin_backbone import list_checkpoints
from swin_backbone.checkpoints import read, to_ours, to_theirs
from swin_backbone.checkpoints.layouts import EXPORTS

DOCUMENT = (DOCS / "fine_tuning.md").read_text()
EXAMPLES = re.findall(r"```python\n# (\w+) (v\d)\n(.*?)```", DOCUMENT, re.DOTALL)
SHRUNK = {"embed_dims": 16, "depths": (2, 2, 2, 2), "num_heads": (2, 2, 4, 4)}


def test_every_library_has_an_example():
    libraries = {library for library, _ in EXPORTS} - {"swin_backbone"}
    assert {library for library, _, _ in EXAMPLES} == libraries


@pytest.mark.parametrize(
    ("library", "version", "code"), EXAMPLES, ids=[f"{lib}-{v}" for lib, v, _ in EXAMPLES]
)
def test_example_trains_from_its_librarys_weights(library, version, code, tmp_path, monkeypatch):
    """As written, but of a small architecture and without the download."""
    namespace = {}
    exec(code, namespace)
    backbone = namespace["model"]["backbone"]
    source = backbone["init_cfg"]["checkpoint"]
    known = {entry.source: entry for entry in list_checkpoints()}
    if library != "mmdet":  # the list has backbones, and this is a detector
        assert (known[source].library, known[source].version) == (library, version)
        assert known[source].trained_windows == backbone.get("pretrained_window_sizes")
    window = 7 if library == "mmdet" else known[source].window_size
    name = "timm" if library == "official" else library
    options = {"extra_norm_every_n_blocks": 0} if library == "mmpretrain" else {}
    theirs = make_theirs(name, version, 256, window_size=window, **SHRUNK, **options).state_dict()
    if library == "official":  # there is no package of it
        theirs, _ = to_theirs(to_ours(theirs).tensors, library)
    if library == "mmdet":
        theirs = {f"backbone.{key}": value for key, value in theirs.items()}
    torch.save(theirs, tmp_path / "theirs.pth")
    fetched = []
    monkeypatch.setattr(read, "fetch", lambda s: fetched.append(s) or tmp_path / "theirs.pth")

    del backbone["arch"]
    model = MODELS.build({**backbone, **SHRUNK})
    model.init_weights()
    assert fetched == [source]
    report = model.checkpoint_report
    assert not report.unexpected
    assert all(key.startswith("norm") for key in report.missing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images = torch.randn(1, backbone.get("in_channels", 3), 70, 50)
    losses = []
    for _ in range(3):
        loss = sum((m - 1).square().mean() for m in model(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
