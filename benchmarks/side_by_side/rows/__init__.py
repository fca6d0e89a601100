"""What runs leave: rows, and what is read off them without knowing any arm."""
