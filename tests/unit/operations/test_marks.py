"""Writing and reading marks on a sink."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import (
    BlobExistsError,
    ConfigurationError,
    SinkPermissionError,
    SinkUnavailableError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.marks import MAX_MARK_BYTES, Mark, MarkName, MarkVerb, Standing
from knowtation_backup.model.reports import Finding, Sample, VerifyLevel, VerifyReport
from knowtation_backup.operations import marks
from knowtation_backup.operations.marks import (
    list_marks,
    mark_names,
    needed_marks,
    put_mark,
    read_marks,
    read_standing,
    record_verification,
)
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

ARCHIVE = "operator-full-export-20260408T153022Z.json.enc"
OTHER = "operator-full-export-20260409T153022Z.json.enc"
MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, 123_456, tzinfo=dt.UTC)
CUT = MOMENT.replace(microsecond=123_000)
MILLISECOND = dt.timedelta(milliseconds=1)


def at(moment: dt.datetime = MOMENT) -> Callable[[], dt.datetime]:
    return lambda: moment


def standing(sink: ArchiveSink, archive_id: str = ARCHIVE) -> Standing:
    return read_standing(sink, list_marks(sink, archive_id))


def test_a_mark_is_stored_beside_its_archive_and_read_back() -> None:
    sink = MemorySink()
    made = put_mark(sink, ARCHIVE, MarkVerb.TRASHED, {"reason": "keep-last"}, clock=at(), nonce=lambda: "0badcafe")
    assert list(sink.contents()) == [f"side/{ARCHIVE}/marks/20260408T153022123Z-trashed-0badcafe.json"]
    assert read_marks(sink, ARCHIVE) == [made]
    assert standing(sink).trashed_at == CUT
    assert read_marks(sink, OTHER) == []


def test_marking_needs_no_right_to_read_or_delete() -> None:
    sink = MemorySink(permissions="lw")
    put_mark(sink, ARCHIVE, MarkVerb.PINNED, {"until": None}, clock=at())
    with pytest.raises(SinkPermissionError):
        read_marks(sink, ARCHIVE)


@pytest.mark.parametrize("steps", [[0], [0, 0, 0], [0, -86_400_000, -1], [0, 5, 4]])
def test_what_is_noted_last_holds_whatever_the_clock_says(steps: list[int]) -> None:
    sink = MemorySink()
    for number, step in enumerate(steps):
        verb = MarkVerb.QUARANTINED if number % 2 == 0 else MarkVerb.RELEASED
        put_mark(sink, ARCHIVE, verb, clock=at(MOMENT + step * MILLISECOND), nonce=lambda: "ffffffff")
    made = list_marks(sink, ARCHIVE)
    assert all(earlier.made_at < later.made_at for earlier, later in itertools.pairwise(made))
    assert standing(sink).quarantined is (len(steps) % 2 == 1)


def test_the_same_nonce_in_the_same_moment_is_tried_again() -> None:
    sink = MemorySink()

    class Blind(FaultSink):
        """Lists nothing, like a store that shows new blobs late."""

        def _list(self, prefix: str) -> Iterator[BlobInfo]:
            return super()._list(f"{prefix}nothing")

    blind = Blind(sink)
    drawn = iter(["00000001", "00000001", "00000002"])
    for _ in range(2):
        put_mark(blind, ARCHIVE, MarkVerb.PINNED, clock=at(), nonce=lambda: next(drawn))
    assert [name.nonce for name in list_marks(sink, ARCHIVE)] == ["00000001", "00000002"]
    with pytest.raises(BlobExistsError):
        put_mark(blind, ARCHIVE, MarkVerb.PINNED, clock=at(), nonce=lambda: "00000001")


def test_many_hosts_mark_at_once_without_losing_one() -> None:
    sink = MemorySink()
    barrier = threading.Barrier(8)

    def work(number: int) -> Mark:
        barrier.wait()
        return marks.tag(sink, ARCHIVE, f"tag-{number}", clock=at())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert standing(sink).tags == tuple(f"tag-{number}" for number in range(8))


def test_no_mark_can_follow_the_last_moment_there_is() -> None:
    sink = MemorySink()
    last = dt.datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=dt.UTC)
    put_mark(sink, ARCHIVE, MarkVerb.TRASHED, clock=at(last))
    with pytest.raises(ConfigurationError) as caught:
        put_mark(sink, ARCHIVE, MarkVerb.UNDELETED, clock=at())
    assert caught.value.kind == "mark_from_the_future"


@pytest.mark.parametrize("archive_id", ["", "a/b", "../x", "a b", ".hidden"])
def test_what_is_no_archive_cannot_be_marked(archive_id: str) -> None:
    sink = MemorySink()
    with pytest.raises(ConfigurationError):
        put_mark(sink, archive_id, MarkVerb.PINNED, clock=at())
    assert not sink.contents()


@pytest.mark.parametrize("moment", list(FaultMoment))
@pytest.mark.parametrize("number", [0, 1])
def test_a_failing_store_is_an_error_and_marking_again_works(moment: FaultMoment, number: int) -> None:
    sink = MemorySink()
    with pytest.raises(SinkUnavailableError):
        marks.quarantine(FaultSink(sink, fail_at=number, moment=moment), ARCHIVE, clock=at())
    marks.quarantine(sink, ARCHIVE, clock=at())
    assert standing(sink).quarantined


def test_damaged_marks_are_shown_and_the_others_hold() -> None:
    sink = MemorySink()
    marks.tag(sink, ARCHIVE, "good", clock=at())
    damaged = [
        MarkName(artifact=ARCHIVE, made_at=MOMENT + number * MILLISECOND, verb=MarkVerb.TAGGED, nonce="00000000").key
        for number in range(3)
    ]
    for key, data in zip(damaged, [b"", b"{}", b" " * (MAX_MARK_BYTES + 1)], strict=True):
        sink.put(key, [data])
    assert standing(sink).tags == ("good",)
    assert set(standing(sink).damaged) == set(damaged)
    assert [bool(mark.damage) for mark in read_marks(sink, ARCHIVE)].count(True) == 3


def test_an_unreachable_mark_is_never_called_damaged() -> None:
    sink = MemorySink()
    marks.tag(sink, ARCHIVE, "a", clock=at())
    names = list_marks(sink, ARCHIVE)
    with pytest.raises(SinkUnavailableError):
        read_standing(FaultSink(sink, fail_at=0), names)


def test_a_mark_that_went_meanwhile_is_none() -> None:
    sink = MemorySink()
    marks.tag(sink, ARCHIVE, "a", clock=at())
    names = list_marks(sink, ARCHIVE)
    sink.delete(names[0].key)
    assert read_standing(sink, names) == Standing()


verbs = st.lists(st.sampled_from(MarkVerb), max_size=10)


@settings(max_examples=50)
@given(verbs=verbs)
def test_reading_what_matters_says_the_same_as_reading_all(verbs: list[MarkVerb]) -> None:
    sink = MemorySink()
    for number, verb in enumerate(verbs):
        values_of: dict[MarkVerb, dict[str, Any]] = {
            MarkVerb.PINNED: {"until": f"20{number + 27}-01-01T00:00:00.000Z"},
            MarkVerb.TAGGED: {"tags": [f"t{number % 3}"]},
            MarkVerb.UNTAGGED: {"tags": [f"t{number % 2}"]},
            MarkVerb.NOTED: {"notes": {f"n{number % 2}": str(number)}},
            MarkVerb.VERIFIED: {"level": "content", "part": None, "of": None},
            MarkVerb.CHECKED: {"level": "presence", "part": None, "of": None},
        }
        put_mark(sink, ARCHIVE, verb, values_of.get(verb, {"reason": "x"}), clock=at())
    counting = FaultSink(sink)
    names = list_marks(sink, ARCHIVE)
    assert read_standing(counting, names) == Standing.of(read_marks(sink, ARCHIVE))
    assert counting.operations == [f"read {name.key}" for name in needed_marks(names)]


def test_only_content_that_matters_is_read() -> None:
    sink = MemorySink()
    for _ in range(3):
        marks.pin(sink, ARCHIVE, clock=at())
        put_mark(sink, ARCHIVE, MarkVerb.VERIFIED, clock=at())
        put_mark(sink, ARCHIVE, MarkVerb.CHECKED, clock=at())
        marks.quarantine(sink, ARCHIVE, clock=at())
    names = list_marks(sink, ARCHIVE)
    assert [name.verb for name in needed_marks(names)] == [MarkVerb.PINNED]
    assert needed_marks(names)[0] == [name for name in names if name.verb is MarkVerb.PINNED][-1]
    marks.unpin(sink, ARCHIVE, clock=at())
    assert needed_marks(list_marks(sink, ARCHIVE)) == []


def test_other_keys_of_an_archive_are_ignored() -> None:
    sink = MemorySink()
    marks.pin(sink, ARCHIVE, clock=at())
    sink.put(f"side/{ARCHIVE}/manifest.json", [b"{}"])
    sink.put(f"side/{ARCHIVE}/marks/readme.txt", [b"x"])
    sink.put(f"side/{ARCHIVE}/marks/20260408T153022123Z-praised-00000000.json", [b"of a later release"])
    assert [name.verb for name in mark_names(sink.contents())] == [MarkVerb.PINNED]
    assert [name.verb for name in list_marks(sink, ARCHIVE)] == [MarkVerb.PINNED]


class TestVerbs:
    def test_pins(self) -> None:
        sink = MemorySink()
        marks.pin(sink, ARCHIVE, until=MOMENT + dt.timedelta(days=3), clock=at())
        assert standing(sink).pinned_until == CUT + dt.timedelta(days=3)
        marks.pin(sink, ARCHIVE, clock=at())
        assert (standing(sink).pinned, standing(sink).pinned_until) == (True, None)
        marks.unpin(sink, ARCHIVE, clock=at())
        assert not standing(sink).pinned

    def test_a_pin_needs_a_time_zone(self) -> None:
        with pytest.raises(ConfigurationError):
            marks.pin(MemorySink(), ARCHIVE, until=dt.datetime(2026, 1, 1))  # noqa: DTZ001 - the point

    def test_tags(self) -> None:
        sink = MemorySink()
        marks.tag(sink, ARCHIVE, "b", "a", clock=at())
        marks.untag(sink, ARCHIVE, "b", "of-the-backup", clock=at())
        assert (standing(sink).tags, standing(sink).removed_tags) == (("a",), ("b", "of-the-backup"))
        with pytest.raises(ConfigurationError) as caught:
            marks.tag(sink, ARCHIVE, "two words", clock=at())
        assert caught.value.kind == "bad_tag"

    def test_notes(self) -> None:
        sink = MemorySink()
        marks.annotate(sink, ARCHIVE, {"ticket": "42", "by": "ada"}, clock=at())
        marks.annotate(sink, ARCHIVE, {"by": None}, clock=at())
        assert standing(sink).notes == {"ticket": "42"}
        with pytest.raises(ConfigurationError) as caught:
            marks.annotate(sink, ARCHIVE, {"n": 5}, clock=at())  # type: ignore[dict-item]  # the point
        assert caught.value.kind == "bad_mark"

    def test_quarantine(self) -> None:
        sink = MemorySink()
        marks.quarantine(sink, ARCHIVE, reason="looks odd", clock=at())
        assert standing(sink).quarantined
        assert read_marks(sink, ARCHIVE)[0].values == {"reason": "looks odd"}
        marks.release(sink, ARCHIVE, clock=at())
        assert not standing(sink).quarantined


@pytest.mark.parametrize(
    ("level", "sample", "codes", "verb"),
    [
        (VerifyLevel.CONTENT, None, [], MarkVerb.VERIFIED),
        (VerifyLevel.PRESENCE, None, [], MarkVerb.CHECKED),
        (VerifyLevel.CONTENT, Sample(part=2, of=7), [], MarkVerb.CHECKED),
        (VerifyLevel.STRUCTURE, None, ["manifest"], MarkVerb.FAILED),
        (VerifyLevel.CONTENT, None, ["payload_digest", "counts", "counts"], MarkVerb.FAILED),
    ],
)
def test_results_of_verification_are_recorded(
    level: VerifyLevel, sample: Sample | None, codes: list[str], verb: MarkVerb
) -> None:
    sink = MemorySink()
    findings = tuple(Finding(code=code, where="google:1", message="a secret") for code in codes)
    report = VerifyReport(
        archive_id=ARCHIVE, level=level, verified_at=MOMENT, bytes_read=1, findings=findings, sample=sample
    )
    made = record_verification(sink, report, clock=at())
    assert made.name.verb is verb
    assert made.values == {
        "level": level.value,
        "part": sample.part if sample else None,
        "of": sample.of if sample else None,
        "findings": sorted(set(codes)),
    }
    assert b"secret" not in b"".join(sink.contents().values())
    assert b"google" not in b"".join(sink.contents().values())
    assert (standing(sink).verified_at is not None) is (verb is MarkVerb.VERIFIED)


@pytest.mark.parametrize("values", [{"level": "presence"}, {"level": "content", "part": 1, "of": 2}])
def test_a_part_cannot_be_marked_as_verified(values: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        put_mark(MemorySink(), ARCHIVE, MarkVerb.VERIFIED, values)
    assert caught.value.kind == "bad_mark"


def test_a_pin_that_is_over_before_it_is_made_is_refused() -> None:
    sink = MemorySink()
    now = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
    with pytest.raises(ConfigurationError, match="would hold nothing") as caught:
        marks.pin(sink, "archive", until=now, clock=lambda: now)
    assert (caught.value.kind, caught.value.hint) == ("pin_in_the_past", "is the year right?")
    assert sink.contents() == {}
    marks.pin(sink, "archive", until=now + dt.timedelta(seconds=1), clock=lambda: now)
    assert len(sink.contents()) == 1


def test_a_clock_without_a_zone_dates_no_mark() -> None:
    sink = MemorySink()
    with pytest.raises(ConfigurationError) as caught:
        marks.unpin(sink, "archive", clock=lambda: dt.datetime(2026, 4, 8))  # noqa: DTZ001 - the point
    assert caught.value.kind == "naive_datetime"
    with pytest.raises(ConfigurationError, match="2030-01-01 has no time zone"):
        marks.pin(sink, "archive", until=dt.date(2030, 1, 1))  # type: ignore[arg-type] # the point
    assert sink.contents() == {}
