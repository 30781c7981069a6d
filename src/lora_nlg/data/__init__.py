"""Encoded lines to batches."""
