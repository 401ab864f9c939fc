"""Ready-made observers."""
