"""
Values to plant in a hub, and a generator of plausible ones.

What is generated depends on nothing but a number, so that tests can compare an export with the plan.
"""

from __future__ import annotations

import random
from typing import Final

import attrs

__all__ = ["DEFAULT_VAULT", "GeneratedTexts", "Note", "Proposal", "Vault"]

DEFAULT_VAULT: Final = "default"

_EPOCH_NS: Final = 1_775_660_000_000_000_000
"""Creation time of the first generated proposal: 2026-04-08."""
_POOL_BYTES: Final = 200_000
_WORDS: Final = (
    "note", "vault", "tenant", "backup", "restore", "archive", "chunk", "manifest", "sink", "codec", "hub",
    "canister", "ledger", "proposal", "review", "grade", "draft", "merge", "path", "body", "front", "matter",
    "index", "cursor", "page", "replica", "subnet", "cycle", "stable", "memory", "heap", "wasm",
)  # fmt: skip


def _pool() -> str:
    generator = random.Random(0)  # noqa: S311 - test data must repeat, not be secret
    words = generator.choices([*_WORDS, '"quoted"', "end.\n", "new paragraph\n\n"], k=_POOL_BYTES // 5)
    return " ".join(words)


_POOL: Final = _pool()
"""Prose that bodies are cut from; making each from words would take minutes for large plans."""


@attrs.frozen(kw_only=True)
class Note:
    """One note, as the hub stores it: three texts."""

    path: str
    frontmatter: str = attrs.field(default="{}", repr=False)
    body: str = attrs.field(default="", repr=False)


@attrs.frozen(kw_only=True)
class Proposal:
    """
    One stored proposal; fields are the keys of the hub's reply, all text as stored.

    ``suggested_labels`` and ``assistant_suggested_frontmatter`` enter the reply unchecked: a text that is not JSON
    makes the reply malformed, as data of older hubs does.
    """

    proposal_id: str
    path: str
    vault_id: str = DEFAULT_VAULT
    """Also the vault it is found in; blank is found in ``default``."""
    status: str = "proposed"
    intent: str = ""
    base_state_id: str = ""
    external_ref: str = ""
    created_at: str = "2026-04-08T15:30:22.123Z"
    updated_at: str = "2026-04-08T15:30:22.123Z"
    evaluation_status: str = "none"
    evaluation_grade: str = ""
    evaluated_by: str = ""
    evaluated_at: str = ""
    review_queue: str = ""
    review_severity: str = ""
    auto_flag_reasons_json: str = "[]"
    body: str = attrs.field(default="", repr=False)
    frontmatter: str = attrs.field(default="{}", repr=False)
    evaluation_checklist: str = "[]"
    evaluation_comment: str = ""
    evaluation_waiver: str | None = None
    review_hints: str = ""
    review_hints_at: str = ""
    review_hints_model: str = ""
    assistant_notes: str = ""
    assistant_model: str = ""
    assistant_at: str = ""
    suggested_labels: str = "[]"
    assistant_suggested_frontmatter: str = "{}"


@attrs.frozen(kw_only=True)
class Vault:
    """What to plant in one vault of one tenant."""

    user_id: str
    vault_id: str = DEFAULT_VAULT
    notes: tuple[Note, ...] = attrs.field(default=(), repr=False)
    proposals: tuple[Proposal, ...] = attrs.field(default=(), repr=False)
    """Each is found in the vault it names itself."""
    create: bool = False
    """The vault exists even without notes; proposals alone do not make a vault."""


class GeneratedTexts:
    """A stream of plausible notes and proposals, determined by its seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - test data must repeat, not be secret
        self._pool = _POOL

    def text(self, size_bytes: int) -> str:
        """Return ASCII prose of that size, with line ends and quotation marks."""
        start = self._random.randrange(len(self._pool) // 2)
        piece = self._pool[start : start + size_bytes]
        while len(piece) < size_bytes:
            piece += self._pool[: size_bytes - len(piece)]
        return piece

    def note(self, place: int, body_size_bytes: int) -> Note:
        """Return note number *place*: path, JSON or YAML or no front matter, a body of about that size."""
        size = self._random.randint(body_size_bytes // 2, body_size_bytes + body_size_bytes // 2)
        title = " ".join(self._random.choices(_WORDS, k=3))
        frontmatter = (
            f'{{"title":"{title}","tags":["{_WORDS[place % len(_WORDS)]}"]}}',
            "{}",
            f"title: {title}\ntags:\n  - {_WORDS[place % len(_WORDS)]}\n",
        )[place % 3]
        return Note(
            path=f"{_WORDS[place % 7]}/{place:05d}-{title.replace(' ', '-')}.md",
            frontmatter=frontmatter,
            body=self.text(size),
        )

    def proposal(self, place: int, vault_id: str) -> Proposal:
        """Return the proposal with serial number *place*."""
        return Proposal(
            proposal_id=f"prop-{_EPOCH_NS + place * 1_000_003}",
            path=f"{_WORDS[place % 7]}/proposed-{place:05d}.md",
            vault_id=vault_id,
            status=("proposed", "discarded", "approved")[place % 3],
            intent=" ".join(self._random.choices(_WORDS, k=5)),
            body=self.text(300),
            frontmatter=f'{{"draft":{place}}}',
            suggested_labels='["draft","review"]' if place % 2 else "[]",
        )
