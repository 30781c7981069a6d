"""What made the small base and the small data set."""
