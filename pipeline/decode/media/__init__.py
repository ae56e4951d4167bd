"""Decodes the members of a sample into one array per modality."""
