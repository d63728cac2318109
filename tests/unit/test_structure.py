"""What may import what, and who may name what others do not document: read from the source."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "swin_backbone"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}

#: What the parts of the package may import of it, beside themselves. Dependencies point down.
BASE = {
    "atomic_files",
    "config_files",
    "extras",
    "images",
    "label_maps",
    "device_memory",
    "version",
}
CORE = BASE | {"ops", "checkpoints", "framework", "config_errors", "model"}
UPPER = CORE | {"acceleration", "graphs", "openmmlab", "inference"}
ALLOWED = {
    "atomic_files": set(),
    "config_files": set(),
    "extras": set(),
    "images": {"extras"},
    "label_maps": {"extras", "images"},
    "device_memory": set(),
    "version": set(),
    "ops": {"atomic_files"},
    # How weights get into a backbone asks the framework around it, which reads checkpoints.
    "checkpoints": {"atomic_files", "framework", "ops"},
    "framework": {"checkpoints"},
    "config_errors": {"checkpoints"},
    "model": CORE - {"model"},
    "acceleration": CORE | {"graphs"},
    "graphs": {"ops"},
    "openmmlab": CORE | {"acceleration", "graphs"},
    # What predicts and paints with whole models builds them as their configs say.
    "inference": CORE | {"acceleration", "openmmlab"},
    "libraries": CORE,
    "own_data": CORE | {"inference"},
    "cli": UPPER | {"own_data"},
    "__main__": {"cli"},
    "__init__": UPPER,
}
#: Packages of others that a part imports whatever it is asked for. What else there is, is imported
#: where it is needed, in functions.
PYTORCH = {"torch"}
LIBRARIES = {
    "ops": PYTORCH,
    "ops/triton": PYTORCH | {"triton"},
    "checkpoints": PYTORCH | {"filelock", "numpy", "safetensors"},
    "framework": PYTORCH,
    "model": PYTORCH,
    "acceleration": PYTORCH,
    "graphs": PYTORCH,
}
OPENMMLAB = {"mmcv", "mmdet", "mmengine", "mmpretrain", "mmseg"}
#: Modules that only ever get a model of mmseg, and ask for mmseg then.
GETS_ITS_MODELS = {"acceleration", "inference"}
#: What needs OpenMMLab as a whole: commands, and what they predict with its models.
NEEDS_OPENMMLAB = ("openmmlab", "cli", "inference/painters.py", "inference/predictors.py")


def part(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


def imports(path: Path, at_import: bool = False) -> Iterator[tuple[str, int]]:
    """Names that a file imports, and the lines.

    Args:
        path: the file.
        at_import: only what is imported when the file is, not in functions and for types.
    """
    package = module(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in _run_at_import(TREES[path]) if at_import else ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _run_at_import(child)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_part_has_its_place():
    assert {part(path) for path in FILES} == ALLOWED.keys()


@pytest.mark.parametrize("name", ALLOWED)
def test_dependencies_point_down(name):
    wrong = [
        f"{where(path, line)} imports {imported}"
        for path in FILES
        if part(path) == name
        for imported, line in imports(path)
        if imported.split(".")[0] == "swin_backbone"
        and [*imported.split("."), "__init__"][1] not in ALLOWED[name] | {name, "__version__"}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    edges = {
        name: {known for imported, _ in imports(path, at_import=True) for known in _known(imported)}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in edges[name] - {name}:
                visit(other, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def _known(imported: str) -> Iterator[str]:
    """The module that is imported, or that has what is imported."""
    for name in (imported, imported.rpartition(".")[0]):
        if name in MODULES:
            yield name
            return


@pytest.mark.parametrize("place", LIBRARIES)
def test_the_core_needs_little(place):
    known = LIBRARIES[place] | {"swin_backbone"} | sys.stdlib_module_names
    inner = {other for other in LIBRARIES if other.startswith(f"{place}/")}
    wrong = [
        f"{where(path, line)} imports {imported}"
        for path in FILES
        if path.relative_to(PACKAGE).with_suffix("").as_posix().startswith(place)
        and not any(path.is_relative_to(PACKAGE / other) for other in inner)
        for imported, line in imports(path, at_import=True)
        if imported.split(".")[0] not in known
    ]
    assert not wrong, "\n".join(wrong)


def test_openmmlab_is_imported_in_one_place():
    wrong = [
        f"{where(path, line)} imports {imported}"
        for path in FILES
        if not any(path.is_relative_to(PACKAGE / needing) for needing in NEEDS_OPENMMLAB)
        for imported, line in imports(path, at_import=part(path) in GETS_ITS_MODELS)
        if imported.split(".")[0] in OPENMMLAB
    ]
    assert not wrong, "\n".join(wrong)


# What others do not document begins with an underscore. It is named in these places alone, each of
# which says with which versions it was tested, and has a way without.
FENCES = {
    "ops/torch_internals",
    "ops/triton/direct_launch.py",
    "openmmlab/mmengine_internals.py",
    "openmmlab/served_ops/torchvision_internals.py",
    "acceleration/mmseg_internals.py",
    "acceleration/mmdet_internals.py",
    "acceleration/swin/transformers_internals.py",
}
#: Named all over, and why that is no matter.
ELSEWHERE = {
    "_replace": "a method of named tuples that Python documents",
    "_asdict": "a method of named tuples that Python documents",
}


def private_names(path: Path) -> Iterator[tuple[str, int]]:
    """Names with one underscore before them that a file uses and nothing in it defines."""
    tree = TREES[path]
    own = {"_"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [name for alias in node.names for name in alias.name.split(".")]
        else:
            names = list(_looked_up(node))
        for name in names:
            if name.startswith("_") and not name.startswith("__") and name not in own:
                yield name, node.lineno


def _looked_up(node: ast.AST) -> Iterator[str]:
    """Names of attributes as text, that ``getattr`` and its kin are given, or a dictionary is."""
    texts = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        texts = node.args if node.func.id in ("getattr", "hasattr", "setattr", "delattr") else []
    elif isinstance(node, ast.Subscript):
        texts = [node.slice]
    elif isinstance(node, ast.Compare):
        texts = [node.left] if isinstance(node.ops[0], ast.In | ast.NotIn) else []
    for text in texts:
        beginning = text.values[0] if isinstance(text, ast.JoinedStr) and text.values else text
        if isinstance(beginning, ast.Constant) and isinstance(beginning.value, str):
            yield beginning.value


@pytest.mark.parametrize(
    "line",
    [
        "torch._C._functorch.peek_interpreter_stack()",
        "from torch._inductor import aoti_load_package",
        "import torch._dynamo",
        "from torch.utils._python_dispatch import TorchDispatchMode",
        "getattr(runner, '_resume', False)",
        "getattr(torch_module, f'_global_{kind}_hooks')",
        "module.__dict__['_parameters']",
        "'_forward_hooks' in vars(module)",
    ],
)
def test_private_names_are_recognised(monkeypatch, line):
    path = PACKAGE / "new.py"
    monkeypatch.setitem(TREES, path, ast.parse(line))
    assert list(private_names(path))


def test_private_names_of_others_are_fenced():
    inherited = {name for path in FILES for name in _defined_in_classes(path)}
    wrong = [
        f"{where(path, line)}: {name}"
        for path in FILES
        if not any(path.is_relative_to(PACKAGE / fence) for fence in FENCES)
        for name, line in private_names(path)
        if name not in ELSEWHERE and name not in inherited
    ]
    assert not wrong, "\n".join(wrong)


def _defined_in_classes(path: Path) -> Iterator[str]:
    """Methods of our own classes, which subclasses in other files may use."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ClassDef):
            yield from (item.name for item in node.body if isinstance(item, ast.FunctionDef))


@pytest.mark.parametrize("fence", sorted(FENCES))
def test_each_fence_is_there_and_says_what_was_tested(fence):
    path = PACKAGE / fence
    texts = [p.read_text() for p in ([path] if path.is_file() else path.rglob("*.py"))]
    assert any("TESTED" in text or "Tested with" in text for text in texts)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_exceptions_are_needed(name):
    assert any(name == found for path in FILES for found, _ in private_names(path))


TESTS = sorted((ROOT / "tests").rglob("*.py"))


def private_names_in_a_test(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names with an underscore that a test takes from the package: it then holds how, not what."""
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("swin_backbone"):
            for alias in node.names:
                ours.add(alias.asname or alias.name)
                if _is_private(alias.name):
                    yield alias.name, node.lineno
    for node in ast.walk(tree):
        owner = name = None
        if isinstance(node, ast.Attribute):
            owner, name = node.value, node.attr
        elif isinstance(node, ast.Call) and len(node.args) >= 2:
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in ("setattr", "getattr", "delattr", "object"):
                owner, name = node.args[0], getattr(node.args[1], "value", None)
        while isinstance(owner, ast.Attribute):
            owner = owner.value
        if isinstance(owner, ast.Name) and owner.id in ours and _is_private(name):
            yield name, node.lineno


def _is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize(
    "line",
    ["launch._VARIANTS", "setattr(launch, '_VARIANTS', {})", "launch.Launch._kind(1)"],
)
def test_private_names_in_tests_are_recognised(line):
    tree = ast.parse(f"from swin_backbone.ops.triton import launch\n{line}")
    assert list(private_names_in_a_test(tree))


def test_tests_look_at_behaviour():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in TESTS
        for name, line in private_names_in_a_test(ast.parse(path.read_text()))
    ]
    assert not wrong, "\n".join(wrong)


#: What makes tensors on the default device, if it is not told where.
MAKERS = {"arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint",
          "randn", "randperm", "tensor", "zeros"}  # fmt: skip
#: Where tensors are made under a device that is set there.
UNDER_A_DEVICE = {"model/layer_factories.py"}


def makers_without_a_device(tree: ast.AST) -> Iterator[int]:
    """Lines of tensors that lie wherever the caller's default device is, but for parameters."""
    parameters = [
        node.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nn.Parameter"
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{m}" for m in MAKERS}:
            places = {keyword.arg for keyword in node.keywords}
            if node not in parameters and not places & {"device", "out", None}:
                yield node.lineno


def test_makers_are_recognised():
    lines = """
torch.zeros(3)
torch.zeros(3, device=x.device)
nn.Parameter(torch.zeros(3))
f(torch.arange(2) + torch.ones(2, device="cpu"))
x.new_zeros(3)
"""
    assert list(makers_without_a_device(ast.parse(lines))) == [2, 5]


def test_tables_say_where_they_lie():
    """Whatever ``torch.set_default_device`` says: only parameters go by it, as torch's own do."""
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path, tree in TREES.items()
        if str(path.relative_to(PACKAGE)) not in UNDER_A_DEVICE
        for line in makers_without_a_device(tree)
    }
    assert not found


def remembered_tensors(tree: ast.Module) -> Iterator[int]:
    """Lines where ``functools`` remembers what holds tensors, by what functions say they return."""
    functions = {one.name: one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}
    for node in ast.walk(tree):
        found = None
        if isinstance(node, ast.FunctionDef) and any(
            ast.unparse(one).split("(")[0] in {"lru_cache", "cache"} for one in node.decorator_list
        ):
            found = node
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("lru_cache("):
            found = functions.get(ast.unparse(node.args[0]))
        returns = ast.unparse(found.returns) if found is not None and found.returns else ""
        if "Tensor" in returns and "Callable" not in returns:
            yield node.lineno


def test_remembered_tensors_are_recognised():
    lines = """
@lru_cache(maxsize=4)
def a() -> Tensor: pass
def b() -> tuple[Tensor, int]: pass
c = lru_cache(maxsize=4)(b)
@remembered_tables
def d() -> Tensor: pass
@cache
def e() -> Callable[..., Tensor]: pass
"""
    assert list(remembered_tensors(ast.parse(lines))) == [2 + 1, 5]


def test_tensors_are_remembered_where_graphs_keep_them():
    """A CUDA graph reads them by address, whatever a bounded memory has forgotten by then."""
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path, tree in TREES.items()
        for line in remembered_tensors(tree)
    }
    assert not found
