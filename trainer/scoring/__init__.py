"""From a model to predictions, scores and diagnostics."""
