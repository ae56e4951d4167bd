"""Datasets as they are distributed, to shards."""
