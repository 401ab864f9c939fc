"""Runs canister Wasm: memory images, isolation of messages, the `ic0` functions, and the engine over them."""
