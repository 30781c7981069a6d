"""Weights and data in files."""
