"""Logical content of hubs: capture, read back, prove."""
