"""`remix verify`: check a run against its own artifacts."""
