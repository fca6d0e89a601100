"""What is compared: every way of training, as data."""
