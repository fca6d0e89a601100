"""``FRONTS.md``: score against forgetting, from the rows."""
