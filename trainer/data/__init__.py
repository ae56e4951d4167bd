"""Batches by plan, from the feature tables to the device."""
