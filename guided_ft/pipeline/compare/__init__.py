"""``guided-ft compare``: what each way of training makes of a recipe's model and data."""
