"""Values that are kept for their owners, asked for by several threads."""

import copy
import gc
import threading
import weakref

from swin_backbone.acceleration.recent_values import RecentValues


class Owner:
    pass


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


def test_threads():
    values, owner, wrong = RecentValues(3), Owner(), []

    def ask(start):
        for number in range(3000):
            key = (start + number) % 7
            try:
                if values.get(owner, key) not in (None, key):
                    wrong.append(key)
                values.keep(owner, key, key)
            except Exception as error:  # which a thread would keep to itself
                wrong.append(error)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(values.get(owner, key) is not None for key in range(7)) == 3
