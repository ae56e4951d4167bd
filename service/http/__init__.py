"""Responses, errors, authentication and logging over HTTP."""
