"""What a run of the tests says about those that did not run."""

from helpers.skipped import lines_of_reasons


def test_reasons_are_counted_and_the_most_frequent_come_first():
    reasons = ["Skipped: needs a browser", "Skipped: needs: onnx", "Skipped: needs: ray"]
    assert lines_of_reasons(reasons, most=5) == ["skipped 2: needs", "skipped 1: needs a browser"]
    assert lines_of_reasons([], most=5) == []


def test_what_does_not_fit_is_counted_in_the_last_line():
    reasons = [f"Skipped: {letter}" for letter in "aaabbcde"]
    assert lines_of_reasons(reasons, most=3) == [
        "skipped 3: a",
        "skipped 2: b",
        "skipped 3 for 3 other reasons: pytest -rs lists them",
    ]
