"""Threads that ask at once."""

import threading


def errors_of_threads(ask, number=4):
    """What ``ask``, called with each thread's number, raises; a thread would keep it to itself."""
    errors = []

    def run(index):
        try:
            ask(index)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors
