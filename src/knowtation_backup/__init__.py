"""Back up and restore Knowtation hubs and any other Internet Computer canister."""
