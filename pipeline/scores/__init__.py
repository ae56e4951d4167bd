"""Predictions to scores: how hard each sample is for each modality."""
