"""`remix verify`: a run checked against its own artifacts."""
