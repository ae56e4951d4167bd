"""Reads samples from shards (WebDataset tars), however damaged."""
