"""What is learned and what may be forgotten, and which runs are due."""
