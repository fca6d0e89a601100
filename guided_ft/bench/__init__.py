"""The benchmark: ways of training beside each other, with controls, and the statistics, tables and plots of its rows."""
