"""Generated datasets of real encoded media."""
