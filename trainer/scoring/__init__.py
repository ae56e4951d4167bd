"""Predictions of a model, and the scores and diagnostics made from them."""
