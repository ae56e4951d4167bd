"""The feature set: one table per modality, with the same rows in each."""
