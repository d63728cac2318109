"""What benchmarks/benchmark_backbones.py is made of, one idea a file.

``implementations`` builds ours and the peers, ``steps`` says what is timed, ``timing`` and
``memory`` measure it, ``roofline`` says what the hardware would allow, ``comparison`` runs all of
it, ``results`` is what comes out, ``tables`` and ``pictures`` show it. ``profiling`` takes one step
apart.
"""
