"""The management canister: its types, its rules, and one module per area of methods."""
