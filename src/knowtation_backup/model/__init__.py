"""Frozen values shared by every layer; no input or output happens here."""
