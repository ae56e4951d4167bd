"""The store as the service reads it."""
