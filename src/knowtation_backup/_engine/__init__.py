"""Private machinery: standard library and attrs only."""
