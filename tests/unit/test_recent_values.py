"""Values that are kept for their owners, asked for by several threads."""

import copy
import gc
import sys
import weakref

from helpers.threads import errors_of_threads

from swin_backbone.acceleration.recent_values import RecentValues
from swin_backbone.ops.kept_tables import keeping


class Owner:
    pass


class Key:
    """Whose comparison lets other threads run, as an equal key in the midst of a dictionary's work
    can."""

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        return hash(self.number % 2)

    def __eq__(self, other):
        return self.number == other.number


def test_those_that_were_asked_for_last_stay():
    values, owner = RecentValues(2), Owner()
    values.keep(owner, "a", 1)
    values.keep(owner, "b", 2)
    assert values.get(owner, "a") == 1
    values.keep(owner, "c", 3)
    assert [values.get(owner, key) for key in "abc"] == [1, None, 3]
    assert values.get(copy.copy(owner), "a") is None
    values.keep(owner, "a", 4)
    assert values.get(owner, "a") == 4


def test_they_go_with_their_owner():
    values, owner, value = RecentValues(2), Owner(), Owner()
    gone = weakref.ref(value)
    values.keep(owner, "a", value)
    del owner, value
    gc.collect()
    assert gone() is None


def test_a_graph_keeps_what_it_reads():
    """Where values are no longer kept here, it still reads them, by address."""
    values, owner, read = RecentValues(1), Owner(), []
    values.keep(owner, "a", 1)
    with keeping(read):
        values.get(owner, "a")
        values.keep(owner, "b", 2)
        assert values.get(owner, "c") is None
    values.get(owner, "b")
    assert read == [1, 2]


def test_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # in turns, all the time
    try:
        ask_at_once()
    finally:
        sys.setswitchinterval(before)


def ask_at_once():
    values, owner = RecentValues(3), Owner()

    def ask(start):
        for number in range(1000):
            key = Key((start + number) % 7)
            assert values.get(owner, key) in (None, key.number)
            values.keep(owner, key, key.number)

    assert not errors_of_threads(ask)
    assert sum(values.get(owner, Key(number)) is not None for number in range(7)) == 3
