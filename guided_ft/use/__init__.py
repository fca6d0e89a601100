"""What a finished run is good for: talk to its model, let it answer a file, take it elsewhere."""
