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
def test_parameters_are_of_tests():
    """Every test is found by its whole name: pytest says which is not."""
    names = sanitizer.chosen_tests()
    command = [*sanitizer.pytest_command(names, ["--collect-only", "-q", "-q"])]
    done = subprocess.run(
        command, env=sanitizer.environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
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
    monkeypatch.setattr(sanitizer, "compile_all", lambda more: ran.append("compiled"))
    monkeypatch.setattr(
        sanitizer, "run", lambda tool, *_: ran.append(tool) or (tool == "racecheck")
    )
    assert sanitizer.main([]) == 1
    assert ran == ["compiled", "memcheck", "racecheck"]
    assert "memcheck: clean" in capsys.readouterr().out
    assert sanitizer.main(["--tools", "none"]) == 0
    assert ran == ["compiled", "memcheck", "racecheck", "none"]
