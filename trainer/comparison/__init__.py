"""Methods times seeds: runs, costs, tests and tables."""
