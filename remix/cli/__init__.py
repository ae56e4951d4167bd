"""The `remix` command."""
