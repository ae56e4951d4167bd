"""Read access to the artifacts of a store."""
