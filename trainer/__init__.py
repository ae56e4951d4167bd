"""Training: the loop, models, scoring, comparison, and Ray Train."""
