"""``RESULTS.md``: located heads and neurons against random ones, from the rows."""
