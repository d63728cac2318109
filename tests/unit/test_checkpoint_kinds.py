"""What files hold that are checkpoints, and what files are that are none."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from helpers.peers import make_theirs, ours_like, randomise
from PIL import Image

from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError, read_checkpoint, to_theirs

SMALL = {"embed_dims": 16, "depths": (1,), "num_heads": (1,), "out_indices": (0,)}


def contents():
    """All kinds of values that trainers put into checkpoints."""
    state = OrderedDict(
        weight=torch.randn(3, 4),
        parameter=torch.nn.Parameter(torch.randn(2)),
        frozen=torch.nn.Parameter(torch.randn(2), requires_grad=False),
        view=torch.arange(6)[1:5:2],
        transposed=torch.randn(4, 6, dtype=torch.float64).t(),
        expanded=torch.randn(1, 3).expand(5, 3),
        scalar=torch.tensor(True),
        none=torch.zeros(0, 3),
        half=torch.randn(3).half(),
        brain=torch.randn(3).bfloat16(),
        eight_bits=torch.randn(3).to(torch.float8_e4m3fn),
        unsigned=torch.tensor([1, 2]).to(torch.uint16),
        numbers=torch.tensor([1 + 2j]),
    )
    state._metadata = OrderedDict({"": {"version": 2}})
    state["weight"].note = "attributes of a tensor are left out"
    numpy = {
        dtype: np.arange(6).reshape(2, 3).astype(dtype)
        for dtype in ("?", "i1", "u2", "i4", "u8", "f2", "f4", ">f8", "c8", "c16")
    }
    numpy |= {"by columns": np.asfortranarray(np.ones((2, 3))), "scalar": np.float32(3)}
    values = [
        None,
        True,
        1,
        -(10**30),
        2.5,
        1 + 2j,
        "text",
        "\udcff",
        b"bytes",
        b"",
        bytearray(b"x"),
    ]
    values += [(1, (2, [3])), {1, 2}, frozenset({3}), Counter([8, 8, 11]), {(1, "a"): None}]
    values += [torch.float16, torch.device("cuda:1"), torch.Size([2, 3])]
    return {"state_dict": state, "numpy": numpy, "values": values, "shared": [state["weight"]] * 2}


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert a.requires_grad == b.requires_grad
        assert bytes(a.detach().contiguous().view(torch.uint8).flatten().tolist()) == bytes(
            b.detach().contiguous().view(torch.uint8).flatten().tolist()
        )
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
        assert a.flags.f_contiguous == b.flags.f_contiguous
        assert b.flags.owndata
        assert b.flags.writeable
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
        assert getattr(a, "_metadata", None) == getattr(b, "_metadata", None)
    elif isinstance(a, list):
        assert len(a) == len(b)
        for pair in zip(a, b, strict=True):
            assert_same(*pair)
    else:
        assert a == b


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_what_trainers_save_is_read_as_it_was(zipped, protocol, tmp_path):
    saved, path = contents(), tmp_path / "run.pth"
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save(saved, path, **options)
    read = read_checkpoint(path)
    assert_same(saved, read)
    assert read["shared"][0] is read["shared"][1] is read["state_dict"]["weight"]
    with path.open("rb") as file:
        assert_same(saved, read_checkpoint(file))


def test_tensors_share_the_storages_that_they_shared(tmp_path):
    whole = torch.arange(10.0)
    torch.save({"a": whole[:5], "b": whole[3:]}, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    read["a"][4] = 77
    assert read["b"][1] == 77


MOVES = {
    "text": "meta",
    "device": torch.device("meta"),
    "dict": {"cpu": "meta"},
    "function": lambda storage, location: torch.UntypedStorage(storage.nbytes(), device="meta"),
}


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("where", MOVES)
def test_tensors_go_where_map_location_says(where, kind, tmp_path):
    from safetensors.torch import save_file

    path, state = tmp_path / "a.pth", {"a": torch.ones(3)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    assert read_checkpoint(path, MOVES[where])["a"].is_meta
    for stay in (None, "cpu", {}, lambda storage, location: None):
        assert torch.equal(read_checkpoint(path, stay)["a"], state["a"])
    with pytest.raises(TypeError, match=r"map_location must be as torch\.load takes it, got 3"):
        read_checkpoint(path, 3)


class Allowed:
    """A class of the user's own."""

    def __init__(self, value):
        self.value = value


def test_what_the_user_has_allowed_is_made_as_it_is(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"meta": Allowed(3)}, path)
    with pytest.raises(CheckpointError, match=r"could execute code.*names .*Allowed"):
        read_checkpoint(path)
    with torch.serialization.safe_globals([Allowed]):
        assert read_checkpoint(path)["meta"].value == 3


def test_what_the_user_has_allowed_of_numpy_is_still_read_with_care(tmp_path):
    path, array = tmp_path / "a.pth", np.array([1, "a"], dtype=object)
    torch.save({"objects": array}, path)
    with (
        torch.serialization.safe_globals([np.ndarray, np.dtype, array.__reduce__()[0]]),
        pytest.raises(
            CheckpointError, match="array of dtype 'O8'; those of plain numbers are read"
        ),
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_detectron2s_pickles_of_arrays_load(version, protocol, tmp_path):
    theirs, ours = ours_like("official", version), ours_like("official", version)
    randomise(theirs)
    state, _ = to_theirs(theirs.state_dict(), "official")
    arrays = {f"backbone.bottom_up.{key}": tensor.numpy() for key, tensor in state.items()}
    whole = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(whole, protocol=protocol))
    ours.init_cfg = {"type": "Pretrained", "checkpoint": str(path)}
    ours.init_weights()
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor)
    assert ours.checkpoint_report.ignored["__author__"] == "is beside the state dict 'model'"


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_folder_of_save_pretrained_loads(version, sharded, tmp_path):
    theirs, ours = make_theirs("transformers", version), ours_like("transformers", version)
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "saved", max_shard_size="20KB" if sharded else "1GB")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert ("model.safetensors.index.json" in names) == sharded
    sources = [tmp_path / "saved"]
    sources += [tmp_path / "saved" / "model.safetensors.index.json"] if sharded else []
    expected = ours_like("transformers", version)
    expected.load_state_dict(theirs.state_dict(), strict=False)
    for source in sources:
        ours.init_cfg = {"type": "Pretrained", "checkpoint": str(source)}
        ours.init_weights()
        assert sorted(ours.checkpoint_report.loaded) == sorted(expected.checkpoint_report.loaded)
        for key in ours.checkpoint_report.loaded:
            assert torch.equal(ours.state_dict()[key], expected.state_dict()[key])


def test_a_folder_with_an_older_file_or_pieces_loads(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert read_checkpoint(tmp_path)["a"] == 1
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "piece.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "piece.bin"}}))
    assert read_checkpoint(tmp_path)["a"] == 1


INDEXES = {
    "no json": ("{", "is no index of weights"),
    "no map": ("[]", "is no index of weights"),
    "outside": ('{"weight_map": {"a": "../piece.bin"}}', "names files that are not beside it"),
    "absolute": ('{"weight_map": {"a": "/etc/passwd"}}', "names files that are not beside it"),
    "number": ('{"weight_map": {"a": 3}}', "names files that are not beside it"),
    "lacking": ('{"weight_map": {"b": "piece.bin"}}', "piece.bin has no 'b'"),
    "deep": ("[" * 100_000, "is no index of weights"),
}


@pytest.mark.parametrize("fault", INDEXES)
def test_a_folder_with_a_broken_index_is_an_error(fault, tmp_path):
    content, message = INDEXES[fault]
    torch.save({"a": torch.ones(1)}, tmp_path / "piece.bin")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path)


def test_what_a_folder_lacks_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder with none of model\.safetensors"):
        read_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.bin"}}')
    with pytest.raises(FileNotFoundError, match=r"gone\.bin' is not a file"):
        read_checkpoint(tmp_path)


def image(kind):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


def archive(make, **options):
    file = io.BytesIO()
    with make(file, **options) as opened:
        if isinstance(opened, zipfile.ZipFile):
            opened.writestr("weights/readme.txt", "text")
        else:
            opened.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
    return file.getvalue()


def tar(file, mode):
    return tarfile.open(fileobj=file, mode=mode)


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)
    return file.getvalue()


FOREIGN = {
    "empty": (b"", "is empty: it has no bytes"),
    "zeros": (bytes(5000), "is nothing but zeros"),
    "html": (b"\n\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is an HTML page"),
    "html without a doctype": (b"\xef\xbb\xbf<HTML lang='en'>", "is an HTML page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
    "json": (b'{"error": "not found"}', "is text in JSON"),
    "text": (b"Not Found", "is text, not weights; it begins with 'Not Found'"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 113\n",
        "is a Git LFS pointer.*git lfs pull",
    ),
    **{
        kind: (image(kind), "is an image") for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
    },
    "zip": (archive(zipfile.ZipFile, mode="w"), "zip archive of something else: weights/readme"),
    "empty zip": (b"PK\5\6" + bytes(18), "zip archive of something else: nothing"),
    "numpy's archive": (None, "zip archive of something else: a.npy"),
    "numpy's array": (None, "is a single numpy array"),
    "tar": (archive(tar, mode="w"), "is a tar archive: unpack it"),
    "tar.gz": (archive(tar, mode="w:gz"), "is a gzip archive: unpack it"),
    "gzip": (gzip.compress(b"a"), "is a gzip archive"),
    "tar.xz": (archive(tar, mode="w:xz"), "is an xz archive"),
    "tar.bz2": (archive(tar, mode="w:bz2"), "is a bzip2 archive"),
    "TorchScript": (scripted(), "is a TorchScript program.*torch.jit.load"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
    "random": (bytes(range(1, 256)) * 9, "is truncated or no PyTorch file"),
}
for kind, write in (("numpy's archive", np.savez), ("numpy's array", np.save)):
    with io.BytesIO() as file:
        write(file, **({"a": np.ones(2)} if write is np.savez else {"arr": np.ones(2)}))
        FOREIGN[kind] = (file.getvalue(), FOREIGN[kind][1])


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_called_what_it_is(kind, tmp_path):
    content, message = FOREIGN[kind]
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    model = SwinBackbone(**SMALL, init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    for read in (lambda: read_checkpoint(path), model.init_weights):
        with pytest.raises(CheckpointError, match=rf"weights\.pth' .*{message}") as caught:
            read()
        assert "\n" not in str(caught.value)
