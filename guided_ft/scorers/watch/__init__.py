"""What observes a pass: the taps on a model, what one pass shows, and how it is folded onto components."""
