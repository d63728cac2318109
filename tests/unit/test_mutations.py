"""The changes that ``make mutations`` makes can still be made."""

import mutations
import pytest
from helpers.paths import ROOT


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_its_place_is_there_and_what_becomes_of_it_is_python(mutation):
    text = (ROOT / mutation.file).read_text()
    assert text.count(mutation.old) == 1
    changed = text.replace(mutation.old, mutation.new)
    assert changed != text
    compile(changed, mutation.file, "exec")
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert f"def {name or 'test_'}" in (ROOT / "tests" / file).read_text()


def test_names_are_their_own():
    names = [mutation.name for mutation in mutations.MUTATIONS]
    assert len(set(names)) == len(names) >= 20
