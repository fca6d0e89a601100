"""The benchmark: ways of training beside each other, with controls, and what their raw rows show."""
