"""How pages are written and plots drawn."""
