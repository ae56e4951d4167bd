"""Samples, features, scores and plans: the facts and the arithmetic."""
