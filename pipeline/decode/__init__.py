"""Samples to features, on Ray Data."""
