"""The parts of ``bench_localize.py``: tasks, what is measured on them, rows and tables."""
