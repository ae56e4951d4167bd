"""Shards to samples: WebDataset tars, read to the last byte."""
