"""Marks: keys that say when and what, contents that say the rest, and what follows from all of them."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup.errors import ConfigurationError, IntegrityError, UnsupportedFormatError
from knowtation_backup.model.blobs import check_key
from knowtation_backup.model.marks import MAX_MARK_BYTES, Mark, MarkName, MarkVerb, Standing, is_whole

ARCHIVE = "operator-full-export-20260408T153022Z.json.enc"
MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, 123_000, tzinfo=dt.UTC)
MILLISECOND = dt.timedelta(milliseconds=1)

verbs = st.sampled_from(MarkVerb)
nonces = st.text("0123456789abcdef", min_size=8, max_size=8)
moments = st.datetimes(
    min_value=MOMENT.replace(year=1970, tzinfo=None),
    max_value=MOMENT.replace(year=9999, tzinfo=None),
    timezones=st.just(dt.UTC),
).map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))
tags = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3, unique=True)
notes = st.dictionaries(st.sampled_from("xyz"), st.sampled_from(["one", "two", None]), max_size=3)


def mark(verb: MarkVerb, values: dict[str, Any] | None = None, *, after: int = 0, damage: str = "") -> Mark:
    name = MarkName(artifact=ARCHIVE, made_at=MOMENT + after * MILLISECOND, verb=verb, nonce="0badcafe")
    return Mark(name=name, values=values or {}, damage=damage)


def values_of(verb: MarkVerb) -> st.SearchStrategy[dict[str, Any]]:
    match verb:
        case MarkVerb.PINNED:
            return st.fixed_dictionaries({"until": st.sampled_from([None, "2027-01-01T00:00:00.000Z"])})
        case MarkVerb.TAGGED | MarkVerb.UNTAGGED:
            return st.fixed_dictionaries({"tags": tags})
        case MarkVerb.NOTED:
            return st.fixed_dictionaries({"notes": notes})
        case _:
            return st.just({})


@st.composite
def histories(draw: st.DrawFn) -> list[Mark]:
    """Marks of one archive, each later than the one before."""
    found = []
    for number in range(draw(st.integers(0, 8))):
        verb = draw(verbs)
        found.append(mark(verb, draw(values_of(verb)), after=number))
    return found


@given(made_at=moments, verb=verbs, nonce=nonces)
def test_keys_are_made_and_read_back(made_at: dt.datetime, verb: MarkVerb, nonce: str) -> None:
    name = MarkName(artifact=ARCHIVE, made_at=made_at, verb=verb, nonce=nonce)
    assert MarkName.parse(check_key(name.key)) == name


def test_the_key_says_when_and_what() -> None:
    assert mark(MarkVerb.PINNED).name.key == f"side/{ARCHIVE}/marks/20260408T153022123Z-pinned-0badcafe.json"


@pytest.mark.parametrize(
    "key",
    [
        "",
        ARCHIVE,
        f"side/{ARCHIVE}/manifest.json",
        f"side/{ARCHIVE}/marks/20260408T153022Z-pinned-0badcafe.json",
        f"side/{ARCHIVE}/marks/20261308T153022123Z-pinned-0badcafe.json",
        f"side/{ARCHIVE}/marks/20260408T153022123Z-praised-0badcafe.json",
        f"side/{ARCHIVE}/marks/20260408T153022123Z-pinned-0BADCAFE.json",
        f"side/{ARCHIVE}/marks/20260408T153022123Z-pinned-0badcafe.json.enc",
        f"side/{ARCHIVE}/marks/more/20260408T153022123Z-pinned-0badcafe.json",
        f"other/{ARCHIVE}/marks/20260408T153022123Z-pinned-0badcafe.json",
    ],
)
def test_other_keys_are_no_marks(key: str) -> None:
    assert MarkName.parse(key) is None


@settings(max_examples=50)
@given(history=histories())
def test_contents_are_read_back(history: list[Mark]) -> None:
    for made in history:
        data = made.to_bytes()
        assert Mark.from_bytes(made.name, data) == made
        assert data.endswith(b"}\n")


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(mark(MarkVerb.TAGGED, {"tags": ["a"]}).to_bytes()) | fields).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"[]",
        b"{}",
        b'{"format":1}',
        b'{"a":' * 3000,
        changed(format="other"),
        changed(artifact="another archive"),
        changed(made_at="2026-04-08T15:30:22.124Z"),
        changed(made_at="yesterday"),
        changed(made_at=None),
        changed(verb="pinned"),
        changed(values=[]),
        changed(values=None),
    ],
)
def test_damaged_contents_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        Mark.from_bytes(mark(MarkVerb.TAGGED).name, data)
    assert caught.value.kind == "mark"
    assert ARCHIVE in str(caught.value)


@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_no_mark(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        Mark.from_bytes(mark(MarkVerb.TAGGED).name, data)


def test_newer_marks_are_not_guessed_at() -> None:
    with pytest.raises(UnsupportedFormatError):
        Mark.from_bytes(mark(MarkVerb.TAGGED).name, changed(format_version=2))


@pytest.mark.parametrize(
    "values",
    [{"x": float("nan")}, {"x": b"bytes"}, {"x": {1, 2}}, {"x": "\ud800"}, {"x": "y" * MAX_MARK_BYTES}],
    ids=["nan", "bytes", "set", "surrogate", "large"],
)
def test_values_that_are_no_json_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        mark(MarkVerb.NOTED, values).to_bytes()
    assert caught.value.kind == "bad_mark"


class TestStanding:
    def test_nothing_noted_says_nothing(self) -> None:
        assert Standing.of([]) == Standing()

    @settings(max_examples=50)
    @given(history=histories(), data=st.data())
    def test_the_order_of_reading_does_not_matter(self, history: list[Mark], data: st.DataObject) -> None:
        shuffled = data.draw(st.permutations(history))
        assert Standing.of(shuffled) == Standing.of(history)

    @settings(max_examples=50)
    @given(history=histories())
    def test_one_after_the_other_is_all_together(self, history: list[Mark]) -> None:
        standing = Standing()
        for made in history:
            standing = standing.after(made)
        assert standing == Standing.of(history)

    @settings(max_examples=50)
    @given(history=histories())
    def test_noting_the_last_again_changes_nothing_but_its_moment(self, history: list[Mark]) -> None:
        if not history:
            return
        last = history[-1]
        again = Standing.of([*history, mark(last.name.verb, dict(last.values), after=len(history))])
        once = Standing.of(history)
        assert (again.pinned, again.pinned_until, again.quarantined) == (
            once.pinned,
            once.pinned_until,
            once.quarantined,
        )
        assert (again.tags, again.removed_tags, again.notes) == (once.tags, once.removed_tags, once.notes)
        assert (again.verified_at is None, again.failed_at is None) == (
            once.verified_at is None,
            once.failed_at is None,
        )
        assert (again.trashed_at is None) == (once.trashed_at is None)

    @settings(max_examples=50)
    @given(history=histories())
    def test_a_tag_is_given_or_removed_and_never_both(self, history: list[Mark]) -> None:
        standing = Standing.of(history)
        assert not set(standing.tags) & set(standing.removed_tags)
        assert list(standing.tags) == sorted(set(standing.tags))

    @settings(max_examples=50)
    @given(history=histories())
    def test_verified_and_failed_exclude_each_other(self, history: list[Mark]) -> None:
        standing = Standing.of(history)
        assert standing.verified_at is None or standing.failed_at is None

    @settings(max_examples=50)
    @given(history=histories(), verb=verbs)
    def test_the_last_word_holds(self, history: list[Mark], verb: MarkVerb) -> None:
        last = mark(verb, after=len(history))
        standing = Standing.of([last, *history])
        expected = {
            MarkVerb.PINNED: standing.is_pinned(MOMENT),
            MarkVerb.UNPINNED: not standing.pinned,
            MarkVerb.VERIFIED: standing.verified_at == last.name.made_at,
            MarkVerb.FAILED: standing.failed_at == last.name.made_at,
            MarkVerb.QUARANTINED: standing.quarantined,
            MarkVerb.RELEASED: not standing.quarantined,
            MarkVerb.TRASHED: standing.trashed_at == last.name.made_at,
            MarkVerb.UNDELETED: standing.trashed_at is None,
        }
        assert expected.get(verb, True)

    def test_marks_of_one_moment_are_ordered_by_their_nonce(self) -> None:
        first = MarkName(artifact=ARCHIVE, made_at=MOMENT, verb=MarkVerb.PINNED, nonce="00000001")
        second = MarkName(artifact=ARCHIVE, made_at=MOMENT, verb=MarkVerb.UNPINNED, nonce="00000002")
        assert not Standing.of([Mark(name=second), Mark(name=first)]).pinned

    @pytest.mark.parametrize(
        ("values", "whole"),
        [
            ({"level": "content", "part": None, "of": None}, True),
            ({}, True),
            ({"level": "content", "part": 1, "of": 7}, False),
            ({"level": "presence", "part": None, "of": None}, False),
        ],
    )
    def test_only_the_whole_content_counts_as_verified(self, values: dict[str, Any], *, whole: bool) -> None:
        assert is_whole(values) is whole
        assert (Standing.of([mark(MarkVerb.VERIFIED, values)]).verified_at is not None) is whole

    def test_a_part_that_proved_good_does_not_undo_a_failure(self) -> None:
        standing = Standing.of([mark(MarkVerb.FAILED), mark(MarkVerb.CHECKED, after=1)])
        assert (standing.verified_at, standing.failed_at) == (None, MOMENT)

    def test_a_pin_ends_when_it_says(self) -> None:
        end = MOMENT + dt.timedelta(days=1)
        standing = Standing.of([mark(MarkVerb.PINNED, {"until": "2026-04-09T15:30:22.123Z"})])
        assert standing.pinned_until == end
        assert standing.is_pinned(end - MILLISECOND)
        assert not standing.is_pinned(end)

    @pytest.mark.parametrize("until", ["tomorrow", "", 5, True, [], {}])
    def test_a_pin_whose_end_cannot_be_read_has_none(self, until: Any) -> None:
        standing = Standing.of([mark(MarkVerb.PINNED, {"until": until})])
        assert (standing.pinned, standing.pinned_until) == (True, None)

    @pytest.mark.parametrize("wrong", [None, 5, "ab", {"a": 1}, [1, None, ["a"]]])
    def test_values_of_the_wrong_type_are_as_good_as_absent(self, wrong: Any) -> None:
        assert Standing.of([mark(MarkVerb.TAGGED, {"tags": wrong})]) == Standing()
        assert Standing.of([mark(MarkVerb.UNTAGGED, {"tags": wrong})]) == Standing()
        assert Standing.of([mark(MarkVerb.NOTED, {"notes": wrong})]) == Standing()

    def test_notes_are_merged_by_name(self) -> None:
        standing = Standing.of(
            [
                mark(MarkVerb.NOTED, {"notes": {"a": "1", "b": "2"}}),
                mark(MarkVerb.NOTED, {"notes": {"a": None, "b": "3", "c": "4"}}, after=1),
            ]
        )
        assert standing.notes == {"b": "3", "c": "4"}

    def test_a_damaged_mark_is_named_and_its_key_still_counts(self) -> None:
        damaged = mark(MarkVerb.PINNED, damage="its format is 'x'")
        standing = Standing.of([damaged, mark(MarkVerb.TAGGED, damage="cut", after=1)])
        assert (standing.pinned, standing.pinned_until, standing.tags) == (True, None, ())
        assert standing.damaged == (damaged.name.key, mark(MarkVerb.TAGGED, after=1).name.key)
