"""What compute-sanitizer is run on: tests that exist, few of them."""

import ast
import subprocess
import sys

import pytest
import sanitizer
from helpers.paths import ROOT

LISTS = sanitizer.CHOSEN, sanitizer.IN_AN_INTERPRETER, sanitizer.ON_A_CARD


@pytest.mark.parametrize("files", LISTS)
def test_names_are_of_tests(files):
    for file, names in files.items():
        tree = ast.parse((ROOT / "tests" / file).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {name.partition("[")[0] for name in names} <= functions
        assert len(names) == len(set(names))


@pytest.mark.slow
def test_parameters_are_of_tests(tmp_path):
    """Every test is found by its whole name: pytest says which is not."""
    names = sanitizer.chosen_tests()
    command = sanitizer.pytest_command(names, ["--collect-only", "-q", "-q"])
    variables = sanitizer.environment() | {"SWIN_KERNELS_LEFT": str(tmp_path / "left.txt")}
    options = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run(command, env=variables, cwd=ROOT, **options)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_tool_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sanitizer, "find", lambda: None)
    with pytest.raises(SystemExit):
        sanitizer.main(["--tools", "racecheck"])
    assert "compute-sanitizer is neither in PATH" in capsys.readouterr().err


def test_a_status_is_what_the_tool_says(monkeypatch, capsys):
    """Kernels are compiled first, then each tool runs; one that finds something is the result."""
    ran = []
    monkeypatch.setattr(sanitizer, "find", lambda: sys.executable)
    monkeypatch.setattr(
        sanitizer, "run", lambda tool, *_: ran.append(tool) or (tool == "racecheck")
    )
    assert sanitizer.main([]) == 1
    assert ran == ["none", "memcheck", "racecheck"]
    assert "memcheck: clean" in capsys.readouterr().out
    assert sanitizer.main(["--tools", "memcheck", "--compiled"]) == 0
    assert sanitizer.main(["--tools", "none"]) == 0
    assert ran[3:] == ["memcheck", "none"]


@pytest.mark.slow
def test_what_is_left_out_is_told(monkeypatch, capsys):
    """Two processes that start a few kernels each: all others are named, and that is a failure."""
    few = {
        "unit/test_resized_scores_kernels.py": ["test_class_map[geometry0-7]"],
        "unit/test_norm_and_patch_kernels.py": [
            "test_patch_embedding_agrees_with_its_reference[24-3-patch0-size0]"
        ],
    }
    for name in ("CHOSEN", "IN_AN_INTERPRETER", "ON_A_CARD"):
        monkeypatch.setattr(sanitizer, name, few)
    monkeypatch.setattr(sanitizer.os, "sched_getaffinity", lambda pid: range(4))
    assert sanitizer.run("none", None, []) == 1
    left = capsys.readouterr().out.rpartition("never started: ")[2].strip().split(", ")
    assert "mlp_forward" in left
    assert not {"argmax", "embed_forward", "embed_backward"} & set(left)
