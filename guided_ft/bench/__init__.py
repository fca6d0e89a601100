"""The benchmark: runs, their raw rows, and the statistics, tables and plots made from them."""
