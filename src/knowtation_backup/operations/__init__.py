"""One verb, one options value, one report."""
