"""Training: encoders, fusion, losses, loading by plan, the loop, and Ray Train around it."""
