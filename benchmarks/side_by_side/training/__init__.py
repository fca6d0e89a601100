"""From a cell that is due to its row."""
