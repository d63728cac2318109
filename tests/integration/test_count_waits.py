"""The command that counts what a detector's step asks of a GPU."""

import re

import pytest

pytest.importorskip("mmdet")
import count_waits


def test_a_table_and_the_places(capsys):
    assert count_waits.main(["retinanet", "--places"]) == 0
    lines = capsys.readouterr().out.splitlines()  # mmdet may say something when it is imported
    row = next(number for number, line in enumerate(lines) if line.startswith("retinanet"))
    head, row, places = lines[0], lines[row], lines[row + 1 :]
    assert head.split() == ["operators", "accelerated", "waits", "accelerated"]
    name, *numbers = row.split()
    before, after, waits, left = (int(number.replace(",", "")) for number in numbers)
    assert name == "retinanet"
    assert before > after > 0
    assert waits > left > 0
    found = [re.match(r" *(\d+) \S.* \S+\.py:\d+ ", place) for place in places]
    assert sum(int(one.group(1)) for one in found) == left
