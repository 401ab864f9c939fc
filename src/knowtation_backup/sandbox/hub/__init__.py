"""A Knowtation hub and an attestation ledger to back up: our own canisters, deployed and filled."""

from .deployment import HTTP_REQUEST, HTTP_RESPONSE, PROPOSAL_KEYS, SandboxHub, canister_wasm
from .seed_texts import Note, Proposal, Vault
from .seeding import SeedPlan, SeedReport, seed

__all__ = [
    "HTTP_REQUEST",
    "HTTP_RESPONSE",
    "PROPOSAL_KEYS",
    "Note",
    "Proposal",
    "SandboxHub",
    "SeedPlan",
    "SeedReport",
    "Vault",
    "canister_wasm",
    "seed",
]
