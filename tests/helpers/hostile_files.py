"""Checkpoint files that want to do harm, written opcode by opcode."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib

#: Names of functions and classes that hostile pickles here use.
NUMPY, UTILS = "numpy._core.multiarray", "torch._utils"
V3, TYPED = "_rebuild_tensor_v3", "torch._tensor._rebuild_from_type_v2"
HISTORY = "mmengine.logging.history_buffer HistoryBuffer"


class Ops(bytes):
    """Opcodes that leave one value on the stack."""


def name(text: str) -> Ops:
    """``'module name'`` as a global."""
    module, _, last = text.rpartition(" ") if " " in text else text.rpartition(".")
    return Ops(b"c" + module.encode() + b"\n" + last.encode() + b"\n")


def ops(value) -> Ops:
    """A plain value, or opcodes as they are; tuples, lists and dicts may hold either."""
    if isinstance(value, Ops):
        return value
    if isinstance(value, tuple):
        return Ops(b"(" + b"".join(map(ops, value)) + b"t")
    if isinstance(value, list):
        return Ops(b"](" + b"".join(map(ops, value)) + b"e")
    if isinstance(value, dict):
        return Ops(b"}(" + b"".join(ops(part) for pair in value.items() for part in pair) + b"u")
    if isinstance(value, bytes):
        return call("_codecs.encode", value.decode("latin1"), "latin1")
    if isinstance(value, str):
        content = value.encode()
        return Ops(b"X" + struct.pack("<I", len(content)) + content)
    return Ops(pickle.dumps(value, 2)[2:-1])


def call(function: str | Ops, *args) -> Ops:
    function = name(function) if not isinstance(function, Ops) else function
    return Ops(function + ops(args) + b"R")


def new(kind: str, *args) -> Ops:
    return Ops(name(kind) + ops(args) + b"\x81")


def build(target: Ops, state) -> Ops:
    return Ops(target + ops(state) + b"b")


def storage(count: int, kind: str = "torch.FloatStorage", key: str = "0") -> Ops:
    return Ops(ops(("storage", name(kind), key, "cpu", count)) + b"Q")


def rebuilt(data, *more, function="_rebuild_tensor_v2") -> Ops:
    """Four elements of a storage, or what should be one."""
    return call(f"{UTILS}.{function}", data, 0, (4,), (1,), False, {}, *more)


def tensor(count=4, size=(4,), stride=(1,), offset=0, kind="torch.FloatStorage", **more) -> Ops:
    data = storage(count, kind)
    hooks = call("collections.OrderedDict")
    return call(
        f"{UTILS}._rebuild_tensor_v2", data, offset, size, stride, False, hooks, *more.values()
    )


def dtype(kind="f8", order="<", *, subarray=None, names=None, fields=None) -> Ops:
    state = (3, order, subarray, names, fields, -1, -1, 0)
    return build(call("numpy.dtype", kind, False, True), state)


def array(shape, dtype: Ops, content, version=1) -> Ops:
    start = call(f"{NUMPY}._reconstruct", name("numpy.ndarray"), (0,), b"b")
    return build(start, (version, shape, dtype, False, content))


def history(**state) -> Ops:
    return build(new(HISTORY), state)


def nested(depth: int) -> Ops:
    return Ops(b")" + b"\x85" * depth)


def again(value: Ops, use: bytes, count: int) -> Ops:
    """A list of what is made of one value, again and again."""
    return Ops(b"](" + value + b"q\xfa0" + use * count + b"e")


def laughs(levels: int = 60) -> Ops:
    """A list that holds a list twice, which holds ...: small, and endless when it is written."""
    return Ops(ops(["ha"]) + b"".join(b"q\xfb0](h\xfbh\xfbe" for _ in range(levels)))


def crowd(count: int = 30_000) -> Ops:
    """A list of the same long list many times: small, and long when it is counted."""
    return Ops(b"](" + b"K\0" * count + b"eq\xfc0](" + b"h\xfc" * count + b"e")


WEIGHT = struct.pack("<4f", 1, 2, 3, 4)
OBJECT = Ops(call("numpy.dtype", "O8", False, True))
ADDRESS = struct.pack("<Q", 0x4141414141414141)
EIGHT = array((1,), dtype(), bytes(8))
HUGE, NUMBERS = 2**40, array((2,), dtype(), bytes(16))

#: Pickles that must be refused, by what they try.
PICKLES: dict[str, Ops] = {
    # numpy: the first reads memory at an address of the file's choice.
    "dtype with an object sub-array": array(
        (1,), dtype("f8", "|", subarray=(OBJECT, (1,))), ADDRESS
    ),
    "dtype with a structure": array(
        (1,), dtype("f8", "|", names=("a",), fields={"a": (OBJECT, 0)}), ADDRESS
    ),
    "dtype of objects": array((1,), OBJECT, ADDRESS),
    "dtype of void": array((1,), dtype("V8"), bytes(8)),
    "dtype of dates": array((1,), dtype("M8"), bytes(8)),
    "dtype of a dtype": call("numpy.dtype", dtype()),
    "dtype of a dict": call("numpy.dtype", {"names": ["a"], "formats": ["O"]}),
    "dtype with an odd order": array((1,), dtype("f8", "x"), bytes(8)),
    "dtype that is never described": call("numpy.dtype", "f8", False, True),
    "array without content": call("numpy.ndarray", (64,), "u1"),
    "new array without content": new("numpy.ndarray", (64,), "u1"),
    "array that is never described": call(
        f"{NUMPY}._reconstruct", name("numpy.ndarray"), (64,), b"b"
    ),
    "array of another class": call(f"{NUMPY}._reconstruct", name("torch.Tensor"), (0,), b"b"),
    "array larger than its content": array((64,), dtype(), bytes(8)),
    "array smaller than its content": array((1,), dtype(), bytes(64)),
    "array of negative size": array((-1,), dtype(), bytes(8)),
    "array of two negative sizes": array((-1, -1), dtype(), bytes(8)),
    "array whose size overflows": array((2**32, 2**32, 2**2), dtype("u1"), b""),
    "array of objects in a list": array((1,), OBJECT, [1]),
    "array with state twice": build(EIGHT, (1, (1,), OBJECT, False, ADDRESS)),
    "array of a size that is no number": array(("a",), dtype(), bytes(8)),
    "scalar of an object": call(f"{NUMPY}.scalar", OBJECT, ADDRESS),
    "scalar of too few bytes": call(f"{NUMPY}.scalar", dtype(), b"abc"),
    "scalar of no bytes": call(f"{NUMPY}.scalar", dtype()),
    "buffer of objects": call("numpy._core.numeric._frombuffer", ADDRESS, OBJECT, (1,), "C"),
    "buffer too short": call("numpy._core.numeric._frombuffer", bytes(8), dtype(), (HUGE,), "C"),
    # mmengine's histories.
    "history of nothing": new(HISTORY),
    "history of text": history(_log_history="abc", _count_history="abc"),
    "history of unequal lengths": history(_log_history=NUMBERS, _count_history=EIGHT),
    "history of a table": history(
        _log_history=array((1, 1), dtype(), bytes(8)), _count_history=EIGHT
    ),
    "history of another length": history(
        _log_history=NUMBERS, _count_history=NUMBERS, max_length=-1
    ),
    "history made by its constructor": call(HISTORY, [1], [1]),
    "method of an array": call("builtins.getattr", name("numpy.ndarray"), "tofile"),
    "constructor of a history": call("builtins.getattr", name(HISTORY), "__init__"),
    "attribute of a tensor": call("builtins.getattr", tensor(), "data_ptr"),
    # torch.
    "rows by stride 0": tensor(4, (HUGE, 4), (0, 1)),
    "rows by stride 0, thrice": Ops(b"](" + tensor(4, (2**22, 4), (0, 1)) * 3 + b"e"),
    "one element often": tensor(4, (HUGE,), (0,)),
    "beyond its storage": tensor(4, (5,), (1,)),
    "beyond its storage by offset": tensor(4, (4,), (1,), 1),
    "beyond its storage by stride": tensor(4, (2,), (2**61,)),
    "shape that overflows": tensor(4, (2**33, 2**33), (0, 0)),
    "negative size": tensor(4, (-1,), (1,)),
    "negative stride": tensor(4, (2,), (-1,)),
    "negative offset": tensor(4, (2,), (1,), -2),
    "many dimensions": tensor(4, (1,) * 10_000, (1,) * 10_000),
    "strides of another number": tensor(4, (2, 2), (1,)),
    "shape of fractions": tensor(4, (1.5,), (1,)),
    "shape of booleans": tensor(4, (True,), (1,)),
    "storage of more than its bytes": tensor(HUGE, (HUGE,), (1,)),
    "storage of a few more bytes": tensor(5, (5,), (1,)),
    "storage of another dtype": tensor(4, (4,), (1,), 0, "torch.DoubleStorage"),
    "storage that is not there": rebuilt(storage(4, key="7")),
    "storage outside of its folder": rebuilt(storage(4, key="../data.pkl")),
    "storage of negative size": tensor(-4, (4,), (1,)),
    "storage of no kind": Ops(ops(("storage", "float", "0", "cpu", 4)) + b"Q"),
    "storage of quantised numbers": tensor(4, (4,), (1,), 0, "torch.QInt8Storage"),
    "persistent id that is a number": Ops(ops(7) + b"Q"),
    "module as a persistent id": Ops(ops(("module", "a", "b", "c")) + b"Q"),
    "no storage": rebuilt("abc"),
    "tensor with flags": tensor(metadata={"conj": True}),
    "tensor with state": build(tensor(), (storage(4), 0, (HUGE,), (1,))),
    "state with another storage": build(tensor(), (storage(4), 3, (4,), (1,), False)),
    "parameter of text": call(f"{UTILS}._rebuild_parameter", "abc", True, {}),
    "dtype larger than the storage's": rebuilt(
        storage(4, "torch.storage.UntypedStorage"), name("torch.float64"), function=V3
    ),
    "dtype of packed bits": rebuilt(storage(4), name("torch.quint4x2"), function=V3),
    "dtype that is none": rebuilt(storage(4), "f8", function=V3),
    "class of another kind": call(
        TYPED, name(f"{UTILS}._rebuild_tensor"), name("numpy.ndarray"), (storage(4), 0, (), ()), {}
    ),
    "function of another kind": call(
        TYPED, name("builtins.bytearray"), name("torch.Tensor"), (), {}
    ),
    "tensor without values": call(
        f"{UTILS}._rebuild_meta_tensor_no_storage", name("torch.float32"), (HUGE,), (1,), False
    ),
    "sparse tensor": call(
        f"{UTILS}._rebuild_sparse_tensor", 1, (tensor(), tensor(), (HUGE, HUGE))
    ),
    "sparse tensor of its class": new("torch.sparse.FloatTensor", tensor(), tensor()),
    "quantised tensor": call(
        f"{UTILS}._rebuild_qtensor", storage(4), 0, (HUGE,), (0,), (), False, {}
    ),
    "nested tensor": call(f"{UTILS}._rebuild_nested_tensor", *[tensor()] * 4),
    "subclass of a tensor": call(
        f"{UTILS}._rebuild_wrapper_subclass", name("torch.Tensor"), name("torch.float32"), (HUGE,)
    ),
    "distributed tensor": call("torch.distributed.tensor DTensor"),
    "tensor of its class": call("torch.Tensor", HUGE),
    "new tensor of its class": new("torch.Tensor", 1000),
    "old tensor class": call("torch.FloatTensor", 1000),
    "old storage class": call("torch.FloatStorage", HUGE),
    "untyped storage": call("torch.storage.UntypedStorage", HUGE),
    "new parameter": new("torch.nn.parameter.Parameter", tensor(), True),
    "device of another kind": call("torch.device", "cuda:999999999999"),
    "device that is a list": call("torch.device", ["cpu"]),
    "size beyond an index": call("torch.Size", (2**63,)),
    "size of text": call("torch.Size", ("a",)),
    # Python.
    "bytes by their number": call("builtins.bytes", HUGE),
    "bytearray by its number": call("builtins.bytearray", HUGE),
    "bytearray in an odd encoding": call("builtins.bytearray", "a", "rot13"),
    "encoding that unpacks": call("_codecs.encode", "a", "zip"),
    "complex number of text": call("builtins.complex", "1" * 100, {}),
    "counter of a number": call("collections.Counter", HUGE),
    "ordered dict of a number": call("collections.OrderedDict", HUGE),
    "set of a dict": call("builtins.set", {"a": 1}),
    "dtype that is endless": call("numpy.dtype", laughs()),
    "encoding that is endless": call("_codecs.encode", "a", laughs()),
    "name that is endless": Ops(ops("builtins") + laughs() + b"\x93"),
    "storage that is endless": tensor(laughs()),
    "shape that is endless": tensor(4, (laughs(),), (1,)),
    "attribute that is endless": call("builtins.getattr", laughs(), laughs()),
    "set of a crowd": call("builtins.set", crowd()),
    "counter of a crowd": call("collections.Counter", crowd()),
    "array that is a crowd": array((1,), dtype(), crowd()),
    "key that is deep": ops({nested(100_000): 1}),
    "member of a set that is deep": call("builtins.set", [nested(100_000)]),
    "key of an ordered dict that is deep": call("collections.OrderedDict", [[nested(100_000), 1]]),
    "items of a tensor": Ops(tensor() + ops(0) + ops(1) + b"s"),
    "append to a tensor": Ops(tensor() + ops(0) + b"a"),
    "one set after the other": again(
        ops([*range(20_000)]), name("builtins.set") + b"h\xfa\x85R", 5000
    ),
    "one array after the other": again(
        ops("a" * 4_000_000), name("builtins.bytearray") + b"(h\xfaX\x06\0\0\0latin1tR", 5000
    ),
    "place in memory far away": Ops(ops(1) + b"r\xff\xff\xff\xff" + b"j\xfe\xff\xff\xff"),
    "text longer than the file": Ops(b"\x8d" + struct.pack("<Q", HUGE)),
    "bytes longer than the file": Ops(b"\x8e" + struct.pack("<Q", HUGE)),
    "bytearray longer than the file": Ops(b"\x96" + struct.pack("<Q", HUGE)),
    "number longer than the file": Ops(b"\x8b" + struct.pack("<I", 2**31 - 1)),
    "tuple of nothing": Ops(b"\x87"),
    "marks without end": Ops(b"(" * 100_000),
    "stack that is empty": Ops(b"00000"),
    "extension": Ops(b"\x82\x01"),
    "instance": Ops(b"(ios\nsystem\n"),
    "function of the system": call("posix.system", "true"),
    "what a user allows by mistake": call("builtins.eval", "1"),
}  # fmt: skip


def with_pickle(value: Ops) -> bytes:
    """A whole pickle of a checkpoint in which the value stands beside weights that are sound."""
    whole = {"state_dict": {"weight": tensor()}, "message_hub": value}
    return b"\x80\x02" + ops(whole) + b"."


def zipped(content: bytes, data=WEIGHT, **entries: bytes) -> bytes:
    """As :func:`torch.save` writes it, with one storage."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, part in {
            "data.pkl": content,
            "data/0": data,
            "version": b"3\n",
            **entries,
        }.items():
            archive.writestr(f"archive/{path}", part)
    return file.getvalue()


def old(content: bytes, count: int = 4, data=WEIGHT) -> bytes:
    """As it was written before PyTorch 1.6, with one storage."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    start = b"".join(pickle.dumps(part, 2) for part in parts)
    return start + content + pickle.dumps(["0"], 2) + struct.pack("<q", count) + data


def safetensors(header: dict | bytes, data: bytes = bytes(16), length: int | None = None) -> bytes:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape=(4,), start=0, end=16, dtype="F32") -> dict:
    return {"weight": {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}}


def compressed(size: int) -> bytes:
    """A small archive that would unpack to many bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", with_pickle(ops(1)))
        archive.writestr("archive/data/0", bytes(size))
    return file.getvalue()


def lying(field: bytes, value: bytes) -> bytes:
    """An archive whose directory says other sizes than there are."""
    content = zipped(with_pickle(ops(1)), data=b"0123456789abcdef")
    crc = struct.pack("<I", zlib.crc32(b"0123456789abcdef"))
    start = content.rindex(crc + struct.pack("<II", 16, 16)) + 4
    at = {"packed": start, "size": start + 4}[field]
    return content[:at] + value + content[at + 4 :]


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(path), io.BytesIO())
    return file.getvalue()


SOUND = with_pickle(ops(1))
#: Whole files that must be refused.
FILES: dict[str, bytes] = {
    "zip of another kind": zipped(b"").replace(b"data.pkl", b"data.txt"),
    "zip of TorchScript": zipped(SOUND, **{"constants.pkl": b"", "code/a.py": b""}),
    "zip that is compressed": compressed(50_000_000),
    "zip whose directory claims more": lying("size", struct.pack("<I", 2**32 - 2)),
    "zip whose directory claims a little more": lying("size", struct.pack("<I", 32)),
    "zip with a storage that is too short": zipped(SOUND, data=bytes(8)),
    "zip with an odd order of bytes": zipped(SOUND, byteorder=b"middle"),
    "zip that is cut off": zipped(SOUND)[:-30],
    "zip with another checksum": zipped(SOUND).replace(WEIGHT, bytes(16), 1),
    "old, of more than its bytes": old(SOUND, HUGE),
    "old, of negative size": old(SOUND, -4),
    "old, of fewer elements": old(SOUND, 2),
    "old, cut off": old(SOUND)[:-3],
    "tar": tarred(),
    "safetensors of a long header": safetensors(entry(), length=2**63),
    "safetensors of more than its bytes": safetensors(entry((HUGE,), 0, 4 * HUGE)),
    "safetensors of another shape": safetensors(entry((HUGE,))),
    "safetensors whose shape overflows": safetensors(entry((2**32, 2**32, 4))),
    "safetensors of negative size": safetensors(entry((-4,))),
    "safetensors that begin before the file": safetensors(entry((4,), -16, 0)),
    "safetensors that end before they begin": safetensors(entry((4,), 16, 0)),
    "safetensors of an odd dtype": safetensors(entry(dtype="O8")),
    "safetensors of odd booleans": safetensors(entry((16,), dtype="BOOL"), bytes([255] * 16)),
    "safetensors of a deep header": safetensors(b'{"a":' * 100_000),
    "safetensors without a header": safetensors(b"{", length=1),
}  # fmt: skip
FILES["old, of odd booleans"] = old(
    b"\x80\x02" + tensor(4, (4,), (1,), 0, "torch.BoolStorage") + b".", 4, bytes([2] * 4)
)
FILES["zip of odd booleans"] = zipped(
    b"\x80\x02" + tensor(4, (4,), (1,), 0, "torch.BoolStorage") + b".", bytes([255] * 4)
)


def hostile_files() -> dict[str, bytes]:
    """All of them: pickles in each of the three ways that a file can hold one."""
    files = dict(FILES)
    for what, value in PICKLES.items():
        content = with_pickle(value)
        files[f"{what}, zip"] = zipped(content)
        if len(content) > 20_000:  # takes long to read, and once is enough
            continue
        files[f"{what}, old"] = old(content)
        files[f"{what}, bare"] = b"\x80\x02" + value + b"."
    return files
