"""What benchmarks/benchmark_backbones.py is made of, one idea a file.

``cases`` says what is measured, ``implementations`` builds ours and the peers, ``steps`` says what
is timed, ``memory`` measures what it takes, ``roofline`` says what the hardware would allow,
``comparison`` runs all of it and ``interruption`` ends it, ``results`` is what comes out,
``tables``, ``csv_rows`` and ``pictures`` show it. ``profiling`` takes one step apart. The other
files are those of the other benchmarks.
"""
