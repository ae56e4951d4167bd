"""Decoding of shards into feature sets on Ray Data."""
