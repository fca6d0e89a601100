"""The scorers, one file per method or family of near ones. ``..catalogue`` names them."""
