"""The report of an environment that has a GPU."""

import pytest

from swin_backbone.cli import main


@pytest.fixture
def env(capsys):
    """The report's values, by their names."""

    def run():
        assert main(["env"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len({line.index(line.split("  ", 1)[1].lstrip()) for line in lines}) == 1  # a column
        return {name: value.strip() for name, value in (line.split("  ", 1) for line in lines)}

    return run


def test_the_report_runs_the_kernels(env):
    values = env()
    lines = [value for name, value in values.items() if name.startswith("on cuda")]
    assert lines
    assert all("attention by 'triton'" in line and "FAILS" not in line for line in lines)
