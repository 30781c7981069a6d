"""What can be trained in a model: the methods."""
