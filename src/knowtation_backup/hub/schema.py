"""
Shapes of the hub's replies: notes, vault lists, index pages, proposals, and what to make of odd ones.

Parsers take the decoded JSON value of a reply and are strict where a wrong guess would lose data, tolerant where the
existing exporter is. A proposal is not modelled: it is kept as the ordered JSON object the hub sent, so that keys added
by newer hubs survive. Source: contracts 1.4 to 1.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import msgspec

from .._engine.canonical import JsonError, dumps, loads
from ..errors import ExportError
from ..model.reports import Finding

__all__ = [
    "DEFAULT_VAULT",
    "PREVIEW_UNITS",
    "UNPARSEABLE_KEY",
    "IndexPage",
    "MergedProposals",
    "Note",
    "NoteList",
    "ParsedProposal",
    "Proposal",
    "StubList",
    "is_unparseable",
    "merge_proposals",
    "note_from_json",
    "parse_index",
    "parse_notes",
    "parse_proposal",
    "parse_stubs",
    "parse_vaults",
    "proposal_id_of",
    "proposal_vault_of",
    "unparseable_proposal",
]

DEFAULT_VAULT = "default"
"""The vault of everything that names none."""

UNPARSEABLE_KEY = "_knowtation_backup_json_unparseable"
PREVIEW_KEY = "_knowtation_backup_upstream_preview"
PREVIEW_UNITS = 4000
"""Length of the preview in UTF-16 units, as in existing files."""

_encoder = msgspec.json.Encoder()

Proposal = dict[str, Any]
"""A proposal as the hub sent it: a JSON object, keys in the order received."""


class Note(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    One note; all three texts are kept exactly, including lone surrogates, NUL and CRLF.

    A msgspec structure, not an attrs class, because notes are made and written by the million.

    Args:
        path: Where the note lies in its vault.
        frontmatter: Text, usually of a JSON object, sometimes YAML or anything else; never interpreted here.
        body: The note without its front matter.
    """

    path: str
    frontmatter: str
    body: str

    def __repr__(self) -> str:
        """Return the path alone: content stays out of logs."""
        return f"Note(path={self.path!r})"

    def to_json(self) -> dict[str, str]:
        """Return the object payloads hold, in their key order."""
        return {"path": self.path, "frontmatter": self.frontmatter, "body": self.body}

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of `to_json`."""
        try:
            return _encoder.encode(self)
        except UnicodeEncodeError:  # a lone surrogate
            return dumps(self.to_json())


@attrs.frozen(kw_only=True)
class NoteList:
    """The notes of one vault in the order of the reply; findings name what had to be adapted."""

    notes: tuple[Note, ...] = attrs.field(repr=False)
    findings: tuple[Finding, ...] = ()


@attrs.frozen(kw_only=True)
class StubList:
    """Proposal stubs that have an id, in the order of the reply, and how many had none."""

    stubs: tuple[Proposal, ...] = attrs.field(repr=False)
    without_id: int = 0
    findings: tuple[Finding, ...] = ()


@attrs.frozen(kw_only=True)
class IndexPage:
    """One page of the operator's user index."""

    user_ids: tuple[str, ...]
    next_cursor: str
    """Empty when there is no further page."""
    done: bool

    @property
    def last(self) -> bool:
        """Whether to stop here: the hub said so, or gave no cursor to go on with."""
        return self.done or not self.next_cursor


@attrs.frozen(kw_only=True)
class ParsedProposal:
    """A full proposal, or the object that stands in for a reply that was not JSON."""

    proposal: Proposal = attrs.field(repr=False)
    raw: bytes | None = attrs.field(default=None, repr=False)
    """The complete reply when it was malformed, to be kept in a side file; otherwise `None`."""


@attrs.frozen(kw_only=True)
class MergedProposals:
    """The proposals of all vaults of one tenant in one list."""

    proposals: tuple[Proposal, ...] = attrs.field(repr=False)
    without_id: int = 0
    """Dropped because they had no id, as the existing exporter does."""
    collisions: tuple[str, ...] = ()
    """Ids that occur in several vaults; every one of those proposals was kept."""


def parse_index(value: Any) -> IndexPage:
    """
    Return one page of the user index.

    A list that is missing or not a list counts as an empty page; a cursor that is not text counts as absent.

    Raises:
        ExportError: Not an object, or an id that is not text.
    """
    reply = _object(value, "user index")
    listed = reply.get("user_ids")
    user_ids = listed if isinstance(listed, list) else []
    for user_id in user_ids:
        if not isinstance(user_id, str):
            raise _bad_reply("user index", f"a user id is {_name(user_id)}, not text")
    cursor = reply.get("next_cursor")
    return IndexPage(
        user_ids=tuple(user_ids),
        next_cursor=cursor.strip() if isinstance(cursor, str) else "",
        done=bool(reply.get("done")),
    )


def parse_vaults(value: Any) -> tuple[str, ...]:
    """
    Return the vault ids of a tenant without repetition, in the order of the reply.

    Blank ids are dropped; when none is left (or there is no list), the tenant has the single vault ``default``.

    Raises:
        ExportError: The reply is not an object.
    """
    listed = _object(value, "vault list").get("vaults")
    ids = [item.get("id") for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    usable = dict.fromkeys(item for item in ids if isinstance(item, str) and item.strip())
    return tuple(usable) or (DEFAULT_VAULT,)


def parse_notes(value: Any, *, where: str = "") -> NoteList:
    """
    Return the notes of one vault.

    A reply without a list of notes counts as empty, with a finding ``notes_missing``.

    Args:
        value: The decoded reply of ``GET /api/v1/export`` or ``GET /api/v1/notes``.
        where: The place findings and errors name, for example ``google:1/default``.

    Raises:
        ExportError: The reply is not an object, or a note is not what `note_from_json` accepts.
    """
    listed = _object(value, "notes", where).get("notes")
    if not isinstance(listed, list):
        finding = Finding(code="notes_missing", where=where, message="the reply holds no list of notes; taken as empty")
        return NoteList(notes=(), findings=(finding,))
    notes: list[Note] = []
    findings: list[Finding] = []
    for item in listed:
        note, adapted = note_from_json(item, where=where)
        notes.append(note)
        if adapted:
            findings.append(Finding(code="note_adapted", where=f"{where}/{note.path}", message=adapted))
    return NoteList(notes=tuple(notes), findings=tuple(findings))


def note_from_json(value: Any, *, where: str = "") -> tuple[Note, str]:
    """
    Return a note and a sentence on what was adapted, empty when the object was as documented.

    Front matter that arrives as an object is kept as its compact JSON text, absent front matter or body as empty text.
    Unknown keys are ignored.

    Raises:
        ExportError: Not an object, no path, or a member of another type.
    """
    if not isinstance(value, dict):
        raise _bad_reply("note", f"it is {_name(value)}, not an object", where)
    path = value.get("path")
    frontmatter = value.get("frontmatter")
    body = value.get("body")
    if type(path) is str and type(frontmatter) is str and type(body) is str:
        return Note(path=path, frontmatter=frontmatter, body=body), ""
    if not isinstance(path, str):
        raise _bad_reply("note", f"its path is {_name(path)}, not text", where)
    adapted: list[str] = []
    if isinstance(frontmatter, dict):
        frontmatter = dumps(frontmatter).decode()
        adapted.append("front matter was an object and is kept as its JSON text")
    elif frontmatter is None:
        frontmatter = ""
        adapted.append("front matter was absent and is kept as empty text")
    if body is None:
        body = ""
        adapted.append("the body was absent and is kept as empty text")
    if not isinstance(frontmatter, str) or not isinstance(body, str):
        raise _bad_reply(
            "note", f"front matter is {_name(frontmatter)} and body {_name(body)}; both must be text", where
        )
    return Note(path=path, frontmatter=frontmatter, body=body), "; ".join(adapted)


def parse_stubs(value: Any, *, where: str = "") -> StubList:
    """
    Return the proposal stubs of one vault; those without a usable id are left out and counted.

    A reply without a list counts as empty, with a finding ``proposals_missing``.

    Raises:
        ExportError: The reply is not an object.
    """
    listed = _object(value, "proposal list", where).get("proposals")
    if not isinstance(listed, list):
        message = "the reply holds no list of proposals; taken as empty"
        return StubList(stubs=(), findings=(Finding(code="proposals_missing", where=where, message=message),))
    stubs = tuple(item for item in listed if isinstance(item, dict) and proposal_id_of(item))
    return StubList(stubs=stubs, without_id=len(listed) - len(stubs))


def parse_proposal(raw: bytes, *, proposal_id: str, stub: Mapping[str, Any]) -> ParsedProposal:
    """
    Return the full proposal of one reply, or the stand-in object when the reply is not a JSON object.

    Args:
        raw: The complete body of ``GET /api/v1/proposals/<id>`` with status 200.
        proposal_id: The id that was asked for.
        stub: The entry of the list it was taken from.
    """
    try:
        value = loads(raw)
    except JsonError:
        value = None
    if isinstance(value, dict):
        return ParsedProposal(proposal=value)
    return ParsedProposal(proposal=unparseable_proposal(raw, proposal_id=proposal_id, stub=stub), raw=raw)


def unparseable_proposal(raw: bytes, *, proposal_id: str, stub: Mapping[str, Any]) -> Proposal:
    """
    Return the object that existing files hold in place of a malformed proposal.

    Source: contracts 1.6. The preview is the first 4000 UTF-16 units, so it may end in half a surrogate pair.
    """
    text = raw.decode("utf-8", "replace")
    units = text[:PREVIEW_UNITS].encode("utf-16-le", "surrogatepass")[: 2 * PREVIEW_UNITS]
    copied = {key: stub.get(key) for key in ("path", "status", "vault_id")}
    return {
        "proposal_id": proposal_id,
        **{key: item if isinstance(item, str) else "" for key, item in copied.items()},
        UNPARSEABLE_KEY: True,
        PREVIEW_KEY: units.decode("utf-16-le", "surrogatepass"),
    }


def is_unparseable(proposal: Mapping[str, Any]) -> bool:
    """Tell whether *proposal* is a stand-in for a malformed reply; restores skip and report these."""
    return proposal.get(UNPARSEABLE_KEY) is True


def proposal_id_of(proposal: Mapping[str, Any]) -> str:
    """Return the id of a proposal or stub, or ``""`` when it has none."""
    value = proposal.get("proposal_id")
    return value if isinstance(value, str) else ""


def proposal_vault_of(proposal: Mapping[str, Any]) -> str:
    """Return the vault a proposal belongs to; a blank or absent id counts as ``default`` (contracts 1.7)."""
    value = proposal.get("vault_id")
    return value if isinstance(value, str) and value.strip() else DEFAULT_VAULT


def merge_proposals(proposals: Iterable[Proposal]) -> MergedProposals:
    """
    Merge the proposals of all vaults of one tenant, given in vault order.

    Same id and same vault: the later replaces the earlier at the earlier place. Same id in another vault: both stay,
    and the id is listed as a collision, because the clock that makes ids can repeat within one consensus round.
    """
    kept: dict[tuple[str, str], Proposal] = {}
    vaults_of: dict[str, set[str]] = {}
    without_id = 0
    for proposal in proposals:
        proposal_id = proposal_id_of(proposal)
        if not proposal_id:
            without_id += 1
            continue
        vault_id = proposal_vault_of(proposal)
        kept[proposal_id, vault_id] = proposal
        vaults_of.setdefault(proposal_id, set()).add(vault_id)
    collisions = tuple(proposal_id for proposal_id, vaults in vaults_of.items() if len(vaults) > 1)
    return MergedProposals(proposals=tuple(kept.values()), without_id=without_id, collisions=collisions)


def _object(value: Any, what: str, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _bad_reply(what, f"it is {_name(value)}, not an object", where)


def _name(value: Any) -> str:
    if value is None:
        return "null"
    return {dict: "an object", list: "a list", str: "text", bool: "a truth value"}.get(type(value), "a number")


def _bad_reply(what: str, reason: str, where: str = "") -> ExportError:
    place = f" of {where}" if where else ""
    hint = "check the hub's version, and report the reply to its owner"
    return ExportError(f"the {what}{place} is not as documented: {reason}", kind="bad_reply", hint=hint, where=where)
