"""A small Internet Computer client: so far anonymous, uncertified queries."""
