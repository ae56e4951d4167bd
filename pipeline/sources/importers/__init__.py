"""Importers that convert datasets into shards."""
