"""What the machine gives: files, processes, memory and versions, and what is shown on the way."""
