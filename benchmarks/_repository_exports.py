"""
Daily exports of a hub whose users go on writing: format version 4, one file a day, always the same bytes.

Two thousand users have 200 MB together. Vaults are small and large as people are busy (log-normal, sigma 1.2), one user
in five has a second vault; notes are 2.5 kB on average, one in a hundred holds a picture of 30 kB as base64; there are
three proposals to a hundred notes. Tenants, vaults and notes (by path) have the same order every day: the hub promises
none, and any other would cost those that compare bytes, but not us.

Every day 2 % of all notes change. About one user in six is active, busier ones more often, and each of them touches
five notes on average, recent ones rather than old ones: 75 % are edited, 20 % are new, 5 % deleted. An edit adds a
paragraph (50 %), changes one (35 %), changes tags alone (10 %) or rewrites everything (5 %), and always the time of
change. Active users also make proposals, and decide on earlier ones. Everybody else is byte for byte what they were,
only at another place of the file.

What is in memory are numbers, and one user's content.
"""

from __future__ import annotations

import json
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from _repository_text import Page, Prose, moment, note_sizes, page
from knowtation_backup._engine.canonical import dumps
from knowtation_backup.hub.schema import Note

FIRST_MTIME = 1_700_000_000
FIRST_DAY = 790
NOTES_PER_USER = 34
CHURN = 0.02
NOTES_PER_ACTIVE_USER = 5
_PICTURE_BYTES = 22_500
_PICTURE_SHARE = 0.01
_PROPOSAL_SHARE = 0.03


@attrs.define
class _Note:
    """A note: its number says what it was at first, *edits* on which days it changed."""

    number: int
    vault: int
    edits: list[int] = attrs.field(factory=list)


@attrs.define
class _User:
    """What a user's content follows from."""

    number: int
    notes: list[_Note]
    proposals: dict[int, int | None]
    """Number of each, and the day it was decided on."""
    made: int
    """How many notes there have ever been."""


@attrs.frozen
class _Place:
    """Where a user is in a file."""

    offset: int
    size: int


class Hub:
    """
    A hub on one day after another.

    Args:
        users: How many.
    """

    def __init__(self, *, users: int = 2000) -> None:
        self._day = 0
        self._chance = random.Random("hub")  # noqa: S311 - filler
        sizes = [self._chance.lognormvariate(0, 1.2) for _ in range(users)]
        scale = NOTES_PER_USER * users / sum(sizes)
        self._users = [self._new_user(number, max(1, round(size * scale))) for number, size in enumerate(sizes)]
        self._places: list[_Place] = []

    def _new_user(self, number: int, notes: int) -> _User:
        vaults = 2 if self._chance.random() < 0.2 else 1
        proposals = sum(self._chance.random() < _PROPOSAL_SHARE for _ in range(notes))
        return _User(
            number,
            [_Note(each, self._chance.randrange(vaults)) for each in range(notes)],
            dict.fromkeys(range(proposals)),
            notes,
        )

    @property
    def notes(self) -> int:
        """How many notes there are."""
        return sum(len(user.notes) for user in self._users)

    def write_first(self, path: Path) -> Path:
        """Write the export of the first day."""
        print(f"making {path}", file=sys.stderr, flush=True)
        return self._write(path, None, set())

    def write_next_day(self, before: Path, path: Path) -> Path:
        """Let a day pass and write its export; *before* must be the file of the day that ended."""
        self._day += 1
        return self._write(path, before, self._live())

    def _live(self) -> set[int]:
        """Change 2 % of all notes; return who did."""
        chance = self._chance
        left = round(self.notes * CHURN)
        active: set[int] = set()
        weights = [len(user.notes) ** 0.5 + 1 for user in self._users]
        while left > 0:
            user = chance.choices(self._users, weights)[0]
            if user.number in active:
                continue
            active.add(user.number)
            touched = min(1 + int(chance.expovariate(1 / (NOTES_PER_ACTIVE_USER - 0.5))), left)
            for kind in chance.choices(("edit", "new", "delete"), (75, 20, 5), k=touched):
                self._touch(user, kind)
            left -= touched
            for number, decided in user.proposals.items():
                if decided is None and chance.random() < 0.1:
                    user.proposals[number] = self._day
            if chance.random() < 0.15:
                user.proposals[len(user.proposals)] = None
        return active

    def _touch(self, user: _User, kind: str) -> None:
        chance = self._chance
        # Recent notes are likelier: the position is drawn with a density that grows towards the end.
        place = int(len(user.notes) * chance.random() ** 0.4)
        if kind == "new" or not user.notes:
            user.notes.append(_Note(user.made, user.notes[-1].vault if user.notes else 0))
            user.made += 1
        elif kind == "delete":
            del user.notes[place]
        elif self._day not in user.notes[place].edits:
            user.notes[place].edits.append(self._day)

    def _write(self, path: Path, before: Path | None, active: set[int]) -> Path:
        head = {
            "format_version": 4,
            "kind": "knowtation-operator-full-export",
            "exported_at": moment(FIRST_DAY + self._day),
        }
        places: list[_Place] = []
        anew = [user for user in self._users if before is None or user.number in active]
        with path.open("wb") as file, ProcessPoolExecutor(os.cpu_count()) as executor:
            file.write(dumps(head)[:-1] + b',"users":[')
            made = executor.map(_render, anew, chunksize=8)
            old = before.open("rb") if before else None
            for user in self._users:
                file.write(b"," if user.number else b"")
                if old and user.number not in active:
                    place = self._places[user.number]
                    old.seek(place.offset)
                    block = old.read(place.size)
                else:
                    block = next(made)
                places.append(_Place(file.tell(), len(block)))
                file.write(block)
            file.write(b"]}")
            if old:
                old.close()
        self._places = places
        mtime = FIRST_MTIME + 86_400 * self._day
        os.utime(path, (mtime, mtime))
        return path


def _render(user: _User) -> bytes:
    """Return a user as the export has it."""
    rows: dict[int, list[tuple[str, bytes]]] = {0: []}
    for note in user.notes:
        made = _page_of(user, note)
        row = Note(path=made.path, frontmatter=made.frontmatter, body=made.body).to_bytes()
        rows.setdefault(note.vault, []).append((made.path, row))
    vaults = [
        b'{"vault_id":%s,"notes":[%s]}'
        % (dumps("default" if vault == 0 else "work"), b",".join(row for _, row in sorted(content)))
        for vault, content in sorted(rows.items())
    ]
    proposals = b",".join(dumps(_proposal(user, *item)) for item in user.proposals.items())
    chance = random.Random(f"id {user.number}")  # noqa: S311 - filler
    name = dumps(f"google:{user.number:06d}{chance.randrange(10**15):015d}")
    return b'{"user_id":%s,"vaults":[%s],"proposals":[%s]}' % (name, b",".join(vaults), proposals)


def _page_of(user: _User, note: _Note) -> Page:
    """Return what a note is after all its edits."""
    name = f"{user.number} {note.number}"
    chance = random.Random(name)  # noqa: S311 - filler
    picture = _PICTURE_BYTES if chance.random() < _PICTURE_SHARE else 0
    made = page(chance, number=note.number, size_bytes=note_sizes(chance), attachment_bytes=picture)
    for day in note.edits:
        made = _edited(made, random.Random(f"{name} {day}"), day)  # noqa: S311 - filler
    return made


def _edited(made: Page, chance: random.Random, day: int) -> Page:
    prose = Prose(chance)
    front = json.loads(made.frontmatter) | {"updated_at": moment(FIRST_DAY + day + chance.random())}
    paragraphs = list(made.paragraphs)
    pick = chance.random()
    if pick < 0.5:
        paragraphs.append(prose.paragraph())
    elif pick < 0.85:
        paragraphs[chance.randrange(len(paragraphs))] = prose.paragraph()
    elif pick < 0.95:
        front["tags"] = prose.title().lower().split()
    else:
        paragraphs = [prose.paragraph() for _ in paragraphs]
    return Page(path=made.path, frontmatter=json.dumps(front, separators=(",", ":")), paragraphs=paragraphs)


def _proposal(user: _User, number: int, decided: int | None) -> dict[str, Any]:
    chance = random.Random(f"proposal {user.number} {number}")  # noqa: S311 - filler
    made = page(chance, number=number, size_bytes=note_sizes(chance))
    created = moment(FIRST_DAY - 30 * chance.random())
    return {
        "proposal_id": f"prop-{chance.getrandbits(64):016x}",
        "path": made.path,
        "status": "proposed" if decided is None else chance.choice(("approved", "discarded")),
        "intent": Prose(chance).sentences(1),
        "base_state_id": f"{chance.getrandbits(128):032x}",
        "external_ref": "",
        "vault_id": "default",
        "created_at": created,
        "updated_at": created if decided is None else moment(FIRST_DAY + decided),
        "evaluation_status": "none" if decided is None else "passed",
        "evaluation_grade": "",
        "evaluated_by": "",
        "evaluated_at": "",
        "review_queue": "",
        "review_severity": "",
        "auto_flag_reasons_json": "[]",
        "body": made.body,
        "frontmatter": made.frontmatter,
        "evaluation_checklist": "[]",
        "evaluation_comment": "",
        "evaluation_waiver": None,
    }
