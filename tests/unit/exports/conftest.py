"""Payloads that the tests of reading share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from knowtation_backup._engine.canonical import dumps

MOMENT = "2026-04-08T15:30:22.123Z"


def make_note(path: str, body: str = "text", frontmatter: str = "{}") -> dict[str, str]:
    return {"path": path, "frontmatter": frontmatter, "body": body}


@pytest.fixture
def full() -> dict[str, Any]:
    """A full export with everything that is awkward."""
    proposal = {"proposal_id": "prop-1", "path": "a.md", "status": "proposed", "vault_id": "", "n": [{"x": [{}]}, 1]}
    return {
        "format_version": 4,
        "kind": "knowtation-operator-full-export",
        "exported_at": MOMENT,
        "users": [
            {
                "user_id": "google:1",
                "vaults": [
                    {
                        "vault_id": "default",
                        "notes": [
                            make_note("b.md", 'quote " and },{"path":"x"}],"y'),
                            make_note("a.md", "crlf\r\n\x00 \ud800 é \U0001f600", '"{\\"a\\":1}"'),
                            make_note("big.md", "x" * 300_000),
                        ],
                    },
                    {"vault_id": "empty", "notes": []},
                    {"vault_id": "work", "notes": [make_note(f"n/{n}.md", "w" * n) for n in range(50)]},
                ],
                "proposals": [proposal, {"proposal_id": "prop-1", "vault_id": "work"}],
            },
            {"user_id": "github:2", "vaults": [{"vault_id": "default", "notes": []}], "proposals": []},
            {"user_id": "ü:3", "vaults": [], "proposals": []},
        ],
    }


@pytest.fixture
def single() -> dict[str, Any]:
    """A single vault of version 2."""
    return {
        "format_version": 2,
        "kind": "knowtation-operator-vault-export",
        "exported_at": MOMENT,
        "vault_id": "work",
        "notes": [make_note("a.md"), make_note("b.md")],
        "proposals": [{"proposal_id": "p", "vault_id": "work"}],
    }


@pytest.fixture
def pieces() -> Callable[[Any, int], list[bytes]]:
    """Serialise a value and cut it into chunks of a size."""

    def cut(value: Any, size: int = 1000) -> list[bytes]:
        data = value if isinstance(value, bytes) else dumps(value)
        return [data[start : start + size] for start in range(0, len(data), size)]

    return cut
