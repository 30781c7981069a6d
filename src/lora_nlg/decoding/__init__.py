"""Decoding: beam search and what is made of it."""
