"""Canister snapshots: taking, keeping off-chain, proving and putting back."""
