"""Rules for what to keep; pure."""
