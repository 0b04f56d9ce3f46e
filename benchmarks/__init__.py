"""Claims, measured: each file is one claim beside its peer, run as `python -m benchmarks.NAME`.

Here: measurements taken in turn in one run, so that a noisy machine is noisy to all. Each prints a small table and
ends with one JSON line.
Not here: tests (a benchmark may be slow), the code under measurement.
"""
