"""Comparison of methods over seeds: runs, costs, statistical tests and tables."""
