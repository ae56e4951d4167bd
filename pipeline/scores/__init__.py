"""Scores: how difficult each sample is for each modality, from unimodal predictions."""
