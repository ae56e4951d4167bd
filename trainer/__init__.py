"""Plans to a model: the loop, the models, scoring, comparison, and Ray Train around it."""
