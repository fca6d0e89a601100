"""The benchmark: ways of training beside each other, on two scales, with controls and statistics."""
