"""What workers do at the moment, in a terminal."""
