"""Training: the loop, its loss, its optimiser, its saves."""
