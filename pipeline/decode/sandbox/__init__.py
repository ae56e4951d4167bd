"""Decoding in a separate process."""
