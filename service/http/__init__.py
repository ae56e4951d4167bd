"""HTTP concerns: responses, errors, authentication, logging and metrics."""
