"""
Marks: what was noted of an archive after it was finished, each a blob of its own that is never changed.

Pins, tags, notes, results of verification, quarantine and the trash are all marks. Writing one needs only the right to
create; what holds now follows from reading them in order, see `Standing`. The key says when and what, so that a listing
alone tells most of it::

    side/<artifact>/marks/<YYYYMMDDTHHMMSSmmmZ>-<verb>-<8 hexadecimal digits>.json

Marks are not part of what a manifest vouches for: whoever may create blobs can add one.

The key of a mark holds even when its content is damaged, on the safe side: such a pin has no end, such a quarantine is
one, and `Standing.damaged` names it. Verbs that this release does not know are ignored.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ..errors import ConfigurationError, IntegrityError, UnsupportedFormatError
from .json_input import check_nesting, typed
from .manifest import side_key
from .moments import iso_ms, parse_iso

__all__ = ["MARKS_FOLDER", "MAX_MARK_BYTES", "Mark", "MarkName", "MarkVerb", "Standing", "is_whole"]

MARKS_FOLDER = "marks"
MAX_MARK_BYTES = 64 << 10
MARK_FORMAT = "knowtation-backup-mark"
MARK_VERSION = 1

_NAME = re.compile(
    r"side/(?P<artifact>[^/]+)/marks/(?P<day>[0-9]{8}T[0-9]{6})(?P<ms>[0-9]{3})Z-(?P<verb>[a-z]+)-(?P<nonce>[0-9a-f]{8})\.json"
)


class MarkVerb(enum.Enum):
    """
    What a mark says happened, and the ``values`` it carries.

    ``pinned`` (``until``: ISO-ms or null) and ``unpinned``; ``tagged`` and ``untagged`` (``tags``: list); ``noted``
    (``notes``: object of texts, a null removes); ``verified``, ``checked`` and ``failed`` (``level``, ``part`` and
    ``of`` of a sample or null, ``findings``: list of codes, ``parts``: where samples are taken, those that proved good
    one after another); ``quarantined`` (``reason``) and ``released``;
    ``trashed`` (``reason``) and ``undeleted``.

    ``verified`` is for the whole content only; what proved good at a lower level or in a sample is ``checked``, until
    the last part of the content does. So the key alone tells whether an archive counts as verified.
    """

    PINNED = "pinned"
    UNPINNED = "unpinned"
    TAGGED = "tagged"
    UNTAGGED = "untagged"
    NOTED = "noted"
    VERIFIED = "verified"
    CHECKED = "checked"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    RELEASED = "released"
    TRASHED = "trashed"
    UNDELETED = "undeleted"


@attrs.frozen(kw_only=True)
class MarkName:
    """What the key of a mark says without reading it."""

    artifact: str
    made_at: dt.datetime
    """To the millisecond."""
    verb: MarkVerb
    nonce: str
    """8 hexadecimal digits; tells apart and orders marks of one millisecond."""

    @property
    def key(self) -> str:
        """The key of the mark's blob."""
        moment = iso_ms(self.made_at)
        compact = re.sub(r"[-:.]", "", moment)
        return side_key(self.artifact, f"{MARKS_FOLDER}/{compact}-{self.verb.value}-{self.nonce}.json")

    @property
    def order(self) -> tuple[dt.datetime, str]:
        """Sorts marks of one archive; the later one holds."""
        return (self.made_at, self.nonce)

    @classmethod
    def parse(cls, key: str) -> MarkName | None:
        """Return what *key* says, or `None` when it is no mark's key."""
        match = _NAME.fullmatch(key)
        if match is None:
            return None
        try:
            moment = dt.datetime.strptime(match["day"], "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
            verb = MarkVerb(match["verb"])
        except ValueError:
            return None
        made_at = moment + dt.timedelta(milliseconds=int(match["ms"]))
        return cls(artifact=match["artifact"], made_at=made_at, verb=verb, nonce=match["nonce"])


@attrs.frozen(kw_only=True)
class Mark:
    """One mark with its values."""

    name: MarkName
    values: Mapping[str, Any] = attrs.field(factory=dict)
    damage: str = ""
    """Why the values could not be read; empty when they could."""

    def to_bytes(self) -> bytes:
        """
        Return canonical JSON: sorted keys, no white space, UTF-8, a final newline.

        Raises:
            ConfigurationError: The values are no JSON, or too large.
        """
        value = {
            "format": MARK_FORMAT,
            "format_version": MARK_VERSION,
            "artifact": self.name.artifact,
            "made_at": iso_ms(self.name.made_at),
            "verb": self.name.verb.value,
            "values": dict(self.values),
        }
        try:
            text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            data = (text + "\n").encode()
        except (ValueError, TypeError, RecursionError) as error:
            message = f"the values of a mark are no JSON: {type(error).__name__}"
            raise ConfigurationError(message, kind="bad_mark", hint="pass texts, numbers, lists and objects") from error
        if len(data) > MAX_MARK_BYTES:
            message = f"a mark of {len(data)} bytes is larger than the {MAX_MARK_BYTES} allowed"
            raise ConfigurationError(message, kind="bad_mark", hint="note less")
        return data

    @classmethod
    def from_bytes(cls, name: MarkName, data: bytes) -> Mark:
        """
        Parse the blob of the mark called *name*.

        Raises:
            IntegrityError: Not a mark, or not the one its key says.
            UnsupportedFormatError: A mark of a newer format version.
        """
        try:
            check_nesting(data)
            value = json.loads(data)
            if value["format"] != MARK_FORMAT:
                raise _damaged(name, f"its format is {value['format']!r:.80}")
            if value["format_version"] != MARK_VERSION:
                message = f"{name.key} has format version {value['format_version']!r:.20}; this release reads 1"
                raise UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
            said = (value["artifact"], parse_iso(typed(value["made_at"], str)), value["verb"])
            if said != (name.artifact, name.made_at, name.verb.value):
                raise _damaged(name, "it says something else than its key")
            return cls(name=name, values=typed(value["values"], dict))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, ConfigurationError):
                raise _damaged(name, error.message) from error
            raise _damaged(name, f"{type(error).__name__} at {str(error)[:80]!r}") from error


def _damaged(name: MarkName, reason: str) -> IntegrityError:
    return IntegrityError(f"the mark {name.key} cannot be read: {reason}", kind="mark", key=name.key)


@attrs.frozen(kw_only=True)
class Standing:
    """What the marks of an archive, taken together, say of it now."""

    verified_at: dt.datetime | None = None
    """When the whole content last proved good; `None` when it never did, or something was found wrong since."""
    failed_at: dt.datetime | None = None
    """When a verification of any level last found something, unless the whole content proved good since."""
    pinned: bool = False
    pinned_until: dt.datetime | None = None
    """`None` for a pin without end."""
    quarantined: bool = False
    """Kept for analysis: never ``latest``, never counted."""
    trashed_at: dt.datetime | None = None
    """When it was put into the trash; `None` when it is not there."""
    tags: tuple[str, ...] = ()
    """Tags given since; those of the backup itself are in the manifest."""
    removed_tags: tuple[str, ...] = ()
    notes: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    damaged: tuple[str, ...] = ()
    """Keys of marks whose content could not be read; of those, only what the key says is taken into account."""

    @property
    def spoken_against(self) -> bool:
        """Whether something was found wrong, or it is in quarantine or in the trash: never to be relied on."""
        return self.quarantined or self.trashed_at is not None or self.failed_at is not None

    def is_pinned(self, now: dt.datetime) -> bool:
        """Whether a pin holds at *now*."""
        return self.pinned and (self.pinned_until is None or now < self.pinned_until)

    @classmethod
    def of(cls, marks: Iterable[Mark]) -> Standing:
        """Return what *marks* of one archive say, in whatever order they come."""
        standing = cls()
        for mark in sorted(marks, key=lambda mark: mark.name.order):
            standing = standing.after(mark)
        return standing

    def after(self, mark: Mark) -> Standing:
        """Return the standing once *mark* was made; values of the wrong type are as good as absent."""
        standing = self._after(mark)
        return attrs.evolve(standing, damaged=(*self.damaged, mark.name.key)) if mark.damage else standing

    def _after(self, mark: Mark) -> Standing:  # noqa: C901, PLR0911 - one line per verb
        values, moment = mark.values, mark.name.made_at
        match mark.name.verb:
            case MarkVerb.VERIFIED:
                return attrs.evolve(self, verified_at=moment, failed_at=None) if is_whole(values) else self
            case MarkVerb.CHECKED:
                return self
            case MarkVerb.FAILED:
                return attrs.evolve(self, verified_at=None, failed_at=moment)
            case MarkVerb.PINNED:
                return attrs.evolve(self, pinned=True, pinned_until=_moment(values.get("until")))
            case MarkVerb.UNPINNED:
                return attrs.evolve(self, pinned=False, pinned_until=None)
            case MarkVerb.TAGGED:
                tags = _texts(values.get("tags"))
                added, removed = set(self.tags) | tags, set(self.removed_tags) - tags
                return attrs.evolve(self, tags=tuple(sorted(added)), removed_tags=tuple(sorted(removed)))
            case MarkVerb.UNTAGGED:
                tags = _texts(values.get("tags"))
                left, removed = set(self.tags) - tags, set(self.removed_tags) | tags
                return attrs.evolve(self, tags=tuple(sorted(left)), removed_tags=tuple(sorted(removed)))
            case MarkVerb.NOTED:
                return attrs.evolve(self, notes=_noted(self.notes, values.get("notes")))
            case MarkVerb.QUARANTINED:
                return attrs.evolve(self, quarantined=True)
            case MarkVerb.RELEASED:
                return attrs.evolve(self, quarantined=False)
            case MarkVerb.TRASHED:
                return attrs.evolve(self, trashed_at=moment)
            case MarkVerb.UNDELETED:
                return attrs.evolve(self, trashed_at=None)


def is_whole(values: Mapping[str, Any]) -> bool:
    """Whether the values of a verification speak of the whole content; those that were not read contradict nothing."""
    return values.get("level", "content") == "content" and values.get("of") is None


def _moment(value: Any) -> dt.datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return parse_iso(value)
    except ConfigurationError:
        return None  # a pin whose end cannot be read has none: rather kept too long


def _texts(value: Any) -> set[str]:
    return {item for item in value if isinstance(item, str)} if isinstance(value, list) else set()


def _noted(notes: Mapping[str, str], value: Any) -> dict[str, str]:
    merged = dict(notes)
    for name, text in value.items() if isinstance(value, dict) else ():
        if isinstance(text, str):
            merged[name] = text
        elif text is None:
            merged.pop(name, None)
    return merged
