"""The feature set: tables of equal rows, one per modality."""
