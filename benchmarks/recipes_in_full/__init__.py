"""Every shipped recipe, run in full once: its raw rows, and ``recipes/RESULTS.md``."""
