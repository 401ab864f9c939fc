"""Listing from the store alone, and finding one archive by a short name."""

import datetime as dt
import json
import threading
from collections.abc import Iterator

import attrs
import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.signing import SigningKey
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    SinkPermissionError,
    SinkUnavailableError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.manifest import manifest_key
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.model.reports import jsonable
from knowtation_backup.model.selection import ArchiveFilter
from knowtation_backup.model.signatures import SignaturePolicy
from knowtation_backup.operations import marks
from knowtation_backup.operations.adopt import AdoptOptions, adopt
from knowtation_backup.operations.backup import BackupOptions, backup
from knowtation_backup.operations.catalog import find_archive, list_archives, resolve_archive, resolve_file
from knowtation_backup.operations.marks import put_mark
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

START = dt.datetime(2026, 4, 8, 15, 30, 22, 500_000, tzinfo=dt.UTC)
CODEC = Ktb1Codec(EncryptionKey.generate())


def make(sink: MemorySink, days: int = 0, *, options: BackupOptions | None = None, **changes: object) -> str:
    source = FakeSource(**changes)  # type: ignore[arg-type]  # any field of the fake
    return backup(source, sink, CODEC, options=options, clock=lambda: START + dt.timedelta(days=days)).archive_id


def replace(sink: MemorySink, key: str, data: bytes) -> None:
    sink.delete(key)
    sink.put(key, [data])


def states(sink: MemorySink) -> dict[str, ArchiveState]:
    return {info.archive_id: info.state for info in list_archives(sink)}


def test_archives_are_listed_newest_first_with_their_facts() -> None:
    sink = MemorySink()
    ids = [make(sink, days) for days in (1, 3, 2)]
    listed = list_archives(sink)
    assert [info.archive_id for info in listed] == [ids[1], ids[2], ids[0]]
    newest = listed[0]
    assert newest.taken_at == START + dt.timedelta(days=3)
    assert newest.series == "operator-full-export@fake-hub"
    assert newest.size_bytes == sum(len(data) for key, data in sink.contents().items() if ids[1] in key)
    assert newest.managed
    assert newest.has_manifest


def test_blobs_are_in_the_order_to_delete_them() -> None:
    sink = MemorySink()
    archive_id = make(sink)
    assert list_archives(sink)[0].keys == (
        f"side/{archive_id}/manifest.json",
        f"side/{archive_id}/details.json.enc",
        archive_id,
        f"side/{archive_id}/started.json",
    )


def test_an_empty_sink_has_no_archives() -> None:
    assert list_archives(MemorySink()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"not json",
        b"\x00" * 100,
        b'{"format":"knowtation-backup-archive","format_version":2}',
        b" " * (5 << 20),
    ],
    ids=["empty", "no fields", "text", "zeros", "newer", "huge"],
)
def test_an_unreadable_manifest_is_a_damaged_archive_of_its_series(data: bytes) -> None:
    sink = MemorySink()
    archive_id = make(sink)
    replace(sink, manifest_key(archive_id), data)
    listed = list_archives(sink)
    assert [(info.archive_id, info.state) for info in listed] == [(archive_id, ArchiveState.DAMAGED)]
    assert listed[0].series == "operator-full-export@fake-hub"


def test_a_manifest_in_the_wrong_place_is_damage() -> None:
    sink = MemorySink()
    one, two = make(sink, 1), make(sink, 2)
    manifests = sink.contents()
    replace(sink, manifest_key(two), manifests[manifest_key(one)])
    assert states(sink) == {one: ArchiveState.COMPLETE, two: ArchiveState.DAMAGED}


@pytest.mark.parametrize("victim", ["artifact", "details"])
@pytest.mark.parametrize("damage", ["gone", "cut", "grown"])
def test_a_missing_or_resized_blob_is_damage_seen_without_reading_it(victim: str, damage: str) -> None:
    sink = MemorySink()
    archive_id = make(sink)
    key = archive_id if victim == "artifact" else f"side/{archive_id}/details.json.enc"
    data = sink.contents()[key]
    sink.delete(key)
    if damage != "gone":
        sink.put(key, [data[:-1] if damage == "cut" else data + b"x"])
    assert states(sink) == {archive_id: ArchiveState.DAMAGED}


def test_blobs_without_a_manifest_are_an_unfinished_archive_of_its_series() -> None:
    sink = MemorySink()
    archive_id = make(sink)
    sink.delete(manifest_key(archive_id))
    listed = list_archives(sink)
    assert [(info.archive_id, info.state) for info in listed] == [(archive_id, ArchiveState.UNFINISHED)]
    assert listed[0].series == "operator-full-export@fake-hub"
    assert listed[0].managed
    assert not listed[0].has_manifest


@pytest.mark.parametrize("data", [None, b"", b"[]", b"{}", b"x" * (128 << 10)])
def test_an_unreadable_marker_only_loses_the_series(data: bytes | None) -> None:
    sink = MemorySink()
    archive_id = make(sink)
    sink.delete(manifest_key(archive_id))
    sink.delete(f"side/{archive_id}/started.json")
    if data is not None:
        sink.put(f"side/{archive_id}/started.json", [data])
    assert [(info.series, info.state) for info in list_archives(sink)] == [
        ("operator-full-export@unknown", ArchiveState.UNFINISHED)
    ]


def test_foreign_files_are_ignored_and_foreign_archives_are_not_managed() -> None:
    sink = MemorySink()
    ignored = [
        "notes.txt",
        "holiday-20260408T153022Z.jpg",
        "operator-full-export.json",
        "operator-full-export-20260408T153022Z.json.sha256",
        "folder/operator-full-export-20260408T153022Z.json",
        "folder/km-backup-20260408T153022Z.tgz",
        "KM-backup-20260408T153022Z.tgz",
        "km-backup-20260408T153022Z.tgz.part",
        "side/readme.txt",
        "side/other/manifest.json",
        "side",
    ]
    for key in ignored[:-1]:
        sink.put(key, [b"x"])
    assert list_archives(sink) == []
    sink.put("operator-full-export-20260408T153022Z.json", [b"theirs"])
    sink.put("canister-export-default-20260409T153022Z.json.enc", [b"theirs"])
    assert [(info.archive_id, info.state, info.managed, info.keys) for info in list_archives(sink)] == [
        (key, ArchiveState.UNFINISHED, False, (key,))
        for key in ("canister-export-default-20260409T153022Z.json.enc", "operator-full-export-20260408T153022Z.json")
    ]


def test_state_archives_of_the_gateway_are_listed() -> None:
    moments = iter([START, START + dt.timedelta(days=9), START, START])
    sink = MemorySink(clock=lambda: next(moments))
    for key, data in (
        ("km-backup-20260401T000000Z.tgz", b"x"),
        ("km-backup-by-hand.tar.gz", b"x"),
        ("km-backup-20260402T000000.tgz", b""),
        ("backup-20260403T000000Z.tar.gz", b"x"),
    ):
        sink.put(key, [data])
    assert [(info.archive_id, info.state.value, info.series, info.managed) for info in list_archives(sink)] == [
        ("km-backup-by-hand.tar.gz", "complete", "km-backup", True),
        ("backup-20260403T000000Z.tar.gz", "complete", "backup", False),
        ("km-backup-20260402T000000.tgz", "damaged", "km-backup", True),
        ("km-backup-20260401T000000Z.tgz", "complete", "km-backup", True),
    ]


def test_the_stamp_in_the_name_orders_even_when_times_disagree() -> None:
    sink = MemorySink()
    archive_id = make(sink)
    value = json.loads(sink.contents()[manifest_key(archive_id)]) | {"taken_at": "2031-01-01T00:00:00.000Z"}
    replace(sink, manifest_key(archive_id), json.dumps(value).encode())
    assert list_archives(sink)[0].taken_at == START.replace(microsecond=0)


@pytest.mark.parametrize("moment", list(FaultMoment))
def test_an_unreachable_store_is_an_error_and_never_damage(moment: FaultMoment) -> None:
    inner = MemorySink()
    for days in range(2):
        make(inner, days)
    counting = FaultSink(inner)
    list_archives(counting)
    assert len(counting.operations) == 3
    for number in range(3):
        with pytest.raises(SinkUnavailableError):
            list_archives(FaultSink(inner, fail_at=number, moment=moment))


def test_a_store_that_may_not_be_read_is_an_error() -> None:
    sink = MemorySink(permissions="lw")
    make(sink)
    with pytest.raises(SinkPermissionError):
        list_archives(sink)


def test_what_was_noted_is_listed() -> None:
    sink = MemorySink()
    archive_id = make(sink, options=BackupOptions(tags=("nightly", "pre-upgrade")))
    later = START + dt.timedelta(days=1)
    marks.pin(sink, archive_id, until=later, clock=lambda: START)
    marks.tag(sink, archive_id, "audited", clock=lambda: START)
    marks.untag(sink, archive_id, "nightly", clock=lambda: START)
    marks.annotate(sink, archive_id, {"ticket": "42"}, clock=lambda: START)
    put_mark(sink, archive_id, MarkVerb.VERIFIED, clock=lambda: later)
    (info,) = list_archives(sink)
    assert (info.kind, info.source_id, info.backup_tags) == ("fake", "fake-hub", ("nightly", "pre-upgrade"))
    assert info.tags == ("audited", "pre-upgrade")
    assert info.standing.pinned_until == later
    assert info.standing.verified_at == later
    assert info.standing.notes == {"ticket": "42"}
    assert info.size_bytes == sum(map(len, sink.contents().values()))
    assert info.state is ArchiveState.COMPLETE


def test_marks_are_deleted_after_the_artifact_and_before_the_marker() -> None:
    sink = MemorySink()
    archive_id = make(sink)
    mark = put_mark(sink, archive_id, MarkVerb.TRASHED, clock=lambda: START)
    keys = list_archives(sink)[0].keys
    assert keys[-3:] == (archive_id, mark.name.key, f"side/{archive_id}/started.json")
    sink.delete(keys[0])
    sink.delete(archive_id)
    (left,) = list_archives(sink)
    assert (left.state, left.standing.trashed_at) == (ArchiveState.UNFINISHED, mark.name.made_at)


def test_damaged_marks_are_shown_and_not_fatal() -> None:
    sink = MemorySink()
    archive_id = make(sink)
    mark = marks.tag(sink, archive_id, "a", clock=lambda: START)
    replace(sink, mark.name.key, b"{")
    (info,) = list_archives(sink)
    assert (info.state, info.tags, info.standing.damaged) == (ArchiveState.COMPLETE, (), (mark.name.key,))
    assert "1 damaged mark(s)" in str(info)


def test_marks_beside_a_file_of_another_tool_leave_it_one() -> None:
    sink = MemorySink(clock=lambda: START)
    for key in ("operator-full-export-20260408T153022Z.json", "km-backup-by-hand.tgz", "unknown.bin"):
        sink.put(key, [b"theirs"])
        marks.pin(sink, key, clock=lambda: START)
    listed = {info.archive_id: info for info in list_archives(sink)}
    assert all(info.standing.pinned for info in listed.values())
    assert {key: (info.managed, info.state.value) for key, info in listed.items()} == {
        "operator-full-export-20260408T153022Z.json": (False, "unfinished"),
        "km-backup-by-hand.tgz": (True, "complete"),
        "unknown.bin": (False, "unfinished"),
    }


@pytest.mark.parametrize("name", ["details.json", "manifest.sig"])
def test_an_artifact_without_our_marker_is_never_ours_to_remove(name: str) -> None:
    sink = MemorySink()
    key = "operator-full-export-20260408T153022Z.json"
    sink.put(key, [b"theirs"])
    sink.put(f"side/{key}/{name}", [b"of an adoption that was interrupted"])
    (info,) = list_archives(sink)
    assert (info.managed, info.state) == (False, ArchiveState.UNFINISHED)


@pytest.mark.parametrize("key", ["operator-full-export-20260408T153022Z.json", "km-backup-1.tgz", "accounts.db"])
@pytest.mark.parametrize("name", ["started.json", "manifest.json"])
def test_what_is_put_beside_a_file_of_somebody_else_does_not_get_it_removed(key: str, name: str) -> None:
    moments = iter([START + dt.timedelta(seconds=seconds) for seconds in range(20)])
    sink = MemorySink(clock=lambda: next(moments))
    sink.put(key, [b"theirs"])
    newer = make(sink, days=3)
    # Dated back and of the series of a newer complete archive, so that retention would let it go.
    value = {"kind": "fake", "source_id": "fake-hub", "artifact": key, "taken_at": "2026-04-01T00:00:00.000Z"}
    sink.put(f"side/{key}/{name}", [json.dumps(value).encode()])
    listed = {info.archive_id: info for info in list_archives(sink)}
    assert not listed[key].managed
    plan = KeepLast(limit=1).plan(list(listed.values()), now=START + dt.timedelta(days=30))
    assert [info.archive_id for info in plan.kept] == [newer, key]


def test_what_a_signature_policy_refuses_is_removed_only_where_our_marker_came_first() -> None:
    moments = iter([START + dt.timedelta(seconds=seconds) for seconds in range(20)])
    sink = MemorySink(clock=lambda: next(moments))
    forged = make(sink)
    theirs = "operator-full-export-20260401T000000Z.json"
    sink.put(theirs, [b"theirs"])
    adopt(sink, theirs, options=AdoptOptions(kind="theirs"), clock=lambda: START)
    policy = SignaturePolicy(trusted=SigningKey.generate().verify_key)
    listed = {info.archive_id: info for info in list_archives(sink, signatures=policy)}
    assert {info.state for info in listed.values()} == {ArchiveState.DAMAGED}
    assert (listed[forged].managed, listed[theirs].managed) == (True, False)


def test_where_the_store_knows_no_times_a_marker_must_do() -> None:
    class Timeless(MemorySink):
        def _list(self, prefix: str) -> Iterator[BlobInfo]:
            return (attrs.evolve(info, modified_at=None) for info in super()._list(prefix))

    sink = Timeless()
    archive_id = make(sink)
    sink.delete(manifest_key(archive_id))
    (info,) = list_archives(sink)
    assert (info.state, info.managed) == (ArchiveState.UNFINISHED, True)


def test_marks_that_outlived_their_archive_are_left_overs() -> None:
    sink = MemorySink()
    mark = marks.pin(sink, "operator-full-export-20260408T153022Z.json", clock=lambda: START)
    (info,) = list_archives(sink)
    assert (info.state, info.managed, info.keys) == (ArchiveState.UNFINISHED, True, (mark.name.key,))
    sink.put("side/other/marks/readme.txt", [b"x"])
    assert list_archives(sink) == [info]


def test_a_manifest_of_ours_counts_whatever_its_archive_is_called() -> None:
    sink = MemorySink()
    archive_id = make(sink)
    data = sink.contents()
    renamed = data[manifest_key(archive_id)].replace(archive_id.encode(), b"my-export")
    sink.put("side/my-export/manifest.json", [renamed])
    (info,) = [info for info in list_archives(sink) if info.archive_id == "my-export"]
    assert (info.state, info.taken_at) == (ArchiveState.DAMAGED, START)
    assert info.series == "fake@fake-hub"


class TestCost:
    """What a listing asks of a store: that is what it costs over a network."""

    @staticmethod
    def year(sink: MemorySink, archives: int) -> None:
        """Plant small archives without taking the way of a backup."""
        template = MemorySink()
        model = make(template)
        for number in range(archives):
            stamp = f"{START + dt.timedelta(days=number):%Y%m%dT%H%M%SZ}"
            archive_id = model.replace("20260408T153022Z", stamp)
            for key, data in template.contents().items():
                sink.put(key.replace(model, archive_id), [data.replace(model.encode(), archive_id.encode())])
            put_mark(sink, archive_id, MarkVerb.VERIFIED, clock=lambda: START)
            put_mark(sink, archive_id, MarkVerb.CHECKED, clock=lambda: START)
            if number % 100 == 0:
                marks.pin(sink, archive_id, clock=lambda: START)

    def test_300_archives_take_one_listing_and_one_read_each(self) -> None:
        inner = MemorySink()
        self.year(inner, 300)
        sink = FaultSink(inner)
        listed = list_archives(sink)
        assert len(listed) == 300
        assert all(info.standing.verified_at for info in listed)
        assert len([asked for asked in sink.operations if asked.startswith("list")]) == 1
        assert len(sink.operations) == 1 + 300 + 3
        assert sum("pinned" in asked for asked in sink.operations) == 3

    def test_reads_are_made_side_by_side(self) -> None:
        inner = MemorySink()
        self.year(inner, 8)
        together = threading.Barrier(4)

        class Meeting(FaultSink):
            """Answers reads only when four are under way."""

            def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
                if key.endswith("manifest.json"):
                    together.wait(timeout=20)
                return super()._read(key, start, size_bytes)

        assert len(list_archives(Meeting(inner), concurrency=4)) == 8
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]

    def test_one_at_a_time_is_possible(self) -> None:
        sink = MemorySink()
        self.year(sink, 3)
        assert list_archives(sink, concurrency=1) == list_archives(sink)


def test_listings_are_filtered() -> None:
    sink = MemorySink()
    old, new = make(sink, 0), make(sink, 5)
    put_mark(sink, old, MarkVerb.TRASHED, clock=lambda: START)
    assert [info.archive_id for info in list_archives(sink)] == [new, old]
    assert [info.archive_id for info in list_archives(sink, ArchiveFilter())] == [new]
    everything = ArchiveFilter(include_trashed=True, until=START + dt.timedelta(days=1))
    assert [info.archive_id for info in list_archives(sink, everything)] == [old]


def test_an_archive_removed_while_listing_is_not_listed() -> None:
    sink = MemorySink()
    archive_id = make(sink)

    class Racing(FaultSink):
        def _read(self, key: str, start: int, size_bytes: int | None):  # type: ignore[no-untyped-def]  # noqa: ANN202
            sink.delete(key)
            return super()._read(key, start, size_bytes)

    assert list_archives(Racing(sink)) == []
    assert archive_id in sink.contents()


class TestFind:
    @pytest.fixture
    def archives(self) -> list[ArchiveInfo]:
        sink = MemorySink()
        for days in range(3):
            make(sink, days)
        make(sink, 3, complete=False)
        make(sink, 0, name="canister-export-default", source_id="other-hub")
        sink.delete(manifest_key(make(sink, 4)))
        sink.put("km-backup-20260501T000000Z.tgz", [b"x"])
        return list_archives(sink)

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("latest", "operator-full-export-20260410T153022Z.json.enc"),
            ("latest-1", "operator-full-export-20260409T153022Z.json.enc"),
            ("latest:canister-export-default@other-hub", "canister-export-default-20260408T153022Z.json.enc"),
            ("latest-2:operator-full-export@fake-hub", "operator-full-export-20260408T153022Z.json.enc"),
            ("operator-full-export-20260411", "operator-full-export-20260411T153022Z.json.enc"),
            ("canister", "canister-export-default-20260408T153022Z.json.enc"),
            ("operator-full-export-20260409T153022Z.json.enc", "operator-full-export-20260409T153022Z.json.enc"),
        ],
    )
    def test_one(self, archives: list[ArchiveInfo], text: str, found: str) -> None:
        assert find_archive(archives, text).archive_id == found

    def test_latest_is_the_default_and_complete(self, archives: list[ArchiveInfo]) -> None:
        assert find_archive(archives).state is ArchiveState.COMPLETE

    def test_an_exact_id_wins_over_longer_ones(self, archives: list[ArchiveInfo]) -> None:
        longer = attrs.evolve(archives[0], archive_id=archives[1].archive_id + "x")
        assert find_archive([longer, *archives], archives[1].archive_id) == archives[1]

    @pytest.mark.parametrize("text", ["", "nothing", "latest-4", "latest:nothing", "latest-x", "Latest"])
    def test_none(self, archives: list[ArchiveInfo], text: str) -> None:
        with pytest.raises(BlobNotFoundError) as caught:
            find_archive(archives, text)
        assert caught.value.kind == "no_such_archive"

    def test_none_complete_is_explained(self) -> None:
        sink = MemorySink()
        make(sink, complete=False)
        with pytest.raises(BlobNotFoundError, match="1 archives are incomplete, damaged, failed"):
            find_archive(list_archives(sink))

    def test_a_whole_id_needs_no_listing(self) -> None:
        sink = FaultSink(MemorySink())
        source = FakeSource()
        first = backup(source, sink, CODEC, clock=lambda: START).archive_id
        second = backup(source, sink, CODEC, clock=lambda: START + dt.timedelta(days=1)).archive_id
        sink.operations.clear()
        assert resolve_archive(sink, first) == first
        assert sink.operations == [f"stat {manifest_key(first)}"]
        assert resolve_archive(sink) == second
        assert resolve_archive(sink, first.removesuffix(".enc")) == first
        with pytest.raises(BlobNotFoundError):
            resolve_archive(sink, first.replace("2026", "2025"))

    def test_several_are_named(self, archives: list[ArchiveInfo]) -> None:
        with pytest.raises(ConfigurationError, match=r"20260409.*20260408") as caught:
            find_archive(archives, "operator-full-export-2026040")
        assert caught.value.kind == "ambiguous_archive"

    def test_short_ids(self, archives: list[ArchiveInfo]) -> None:
        for info in archives:
            assert len(info.short_id) == 8
            assert find_archive(archives, info.short_id) == info
        assert find_archive(archives, archives[0].short_id[:7]) == archives[0]
        with pytest.raises(BlobNotFoundError):
            find_archive(archives, archives[0].short_id[:3])

    def test_short_ids_follow_from_the_id_alone(self) -> None:
        sink = MemorySink()
        make(sink)
        assert list_archives(sink)[0].short_id == "fb96b9e6"  # printf %s <id> | sha256sum

    def test_a_whole_short_id_wins_over_an_id_that_begins_so(self, archives: list[ArchiveInfo]) -> None:
        teasing = attrs.evolve(archives[0], archive_id=f"{archives[1].short_id}-20260408T153022Z.json")
        assert find_archive([teasing, *archives], archives[1].short_id) == archives[1]
        with pytest.raises(ConfigurationError) as caught:
            find_archive([teasing, *archives], archives[1].short_id[:6])
        assert caught.value.kind == "ambiguous_archive"
        assert archives[1].short_id in str(caught.value)

    @pytest.mark.parametrize("verb", [MarkVerb.QUARANTINED, MarkVerb.TRASHED])
    def test_what_is_in_quarantine_or_trash_is_never_latest(self, verb: MarkVerb) -> None:
        sink = MemorySink()
        good, bad = make(sink, 0), make(sink, 1)
        mark = put_mark(sink, bad, verb, clock=lambda: START)
        archives = list_archives(sink)
        assert find_archive(archives).archive_id == good
        assert find_archive(archives, bad).archive_id == bad
        with pytest.raises(BlobNotFoundError, match="in quarantine or in the trash"):
            find_archive(archives, "latest-1")
        sink.delete(mark.name.key)
        assert find_archive(list_archives(sink)).archive_id == bad

    def test_the_last_good_one(self) -> None:
        sink = MemorySink()
        first, second, third = (make(sink, days) for days in range(3))
        with pytest.raises(BlobNotFoundError, match="0 complete and verified archives"):
            find_archive(list_archives(sink), verified=True)
        for archive_id in (first, second):
            put_mark(sink, archive_id, MarkVerb.VERIFIED, clock=lambda: START)
        assert find_archive(list_archives(sink), verified=True).archive_id == second
        assert resolve_archive(sink, verified=True) == second
        put_mark(sink, second, MarkVerb.FAILED, clock=lambda: START)
        archives = list_archives(sink)
        assert find_archive(archives, verified=True).archive_id == first
        assert find_archive(archives).archive_id == third
        assert find_archive(archives, "latest-1").archive_id == first, "what failed verification is passed over"
        assert find_archive(archives, first, verified=True).archive_id == first
        with pytest.raises(BlobNotFoundError) as caught:
            find_archive(archives, third, verified=True)
        assert caught.value.kind == "no_such_archive"

    def test_a_verified_archive_that_lost_a_blob_is_not_good(self) -> None:
        sink = MemorySink()
        archive_id = make(sink)
        put_mark(sink, archive_id, MarkVerb.VERIFIED, clock=lambda: START)
        sink.delete(archive_id)
        with pytest.raises(BlobNotFoundError):
            find_archive(list_archives(sink), archive_id, verified=True)

    def test_short_ids_resolve(self) -> None:
        sink = MemorySink()
        first, second = make(sink, 0), make(sink, 1)
        for archive_id, info in zip((second, first), list_archives(sink), strict=True):
            assert resolve_archive(sink, info.short_id) == archive_id


def test_files_are_resolved_whether_listed_or_not() -> None:
    inner = MemorySink()
    archive_id = make(inner)
    inner.put("renamed.json", [b"{}"])
    inner.put("operator-full-export-20260401T000000Z.json", [b"{}"])
    sink = FaultSink(inner)
    assert resolve_file(sink, "renamed.json") == "renamed.json"
    assert sink.operations == ["stat renamed.json"]
    assert resolve_file(sink, "latest") == archive_id
    assert resolve_file(sink, "operator-full-export-20260401") == "operator-full-export-20260401T000000Z.json"
    with pytest.raises(BlobNotFoundError):
        resolve_file(sink, "nothing.json")


def test_listings_become_json() -> None:
    sink = MemorySink()
    archive_id = make(sink, options=BackupOptions(tags=("nightly",)))
    marks.annotate(sink, archive_id, {"ticket": "42"}, clock=lambda: START)
    value = json.loads(json.dumps(jsonable(list_archives(sink))))[0]
    assert (value["archive_id"], value["state"], value["backup_tags"]) == (archive_id, "complete", ["nightly"])
    assert value["standing"]["notes"] == {"ticket": "42"}
    assert value["taken_at"] == "2026-04-08T15:30:22.500Z"


def test_lines_of_a_listing_say_what_matters() -> None:
    sink = MemorySink(clock=lambda: START)
    archive_id = make(sink, options=BackupOptions(tags=("pre-upgrade",)))
    marks.pin(sink, archive_id, until=START + dt.timedelta(days=30), clock=lambda: START)
    put_mark(sink, archive_id, MarkVerb.VERIFIED, clock=lambda: START)
    sink.put("operator-full-export-20260401T000000Z.json", [b"x" * 1_234_567])
    sink.put("km-backup-20260402T000000Z.tgz", [b""])
    ours, state_archive, theirs = map(str, list_archives(sink))
    info = list_archives(sink)[0]
    assert ours == (
        f"complete    {info.short_id}  2026-04-08 15:30Z     {info.size_bytes / 1000:.1f} kB  {archive_id}  "
        "verified 2026-04-08, pinned until 2026-05-08, tags pre-upgrade"
    )
    assert state_archive.startswith("damaged     ")
    assert "        0 B  km-backup-20260402T000000Z.tgz" in state_archive
    assert theirs.endswith("     1.2 MB  operator-full-export-20260401T000000Z.json  not managed")


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        (MarkVerb.FAILED, "FAILED verification 2026-04-08"),
        (MarkVerb.QUARANTINED, "quarantined"),
        (MarkVerb.TRASHED, "in trash since 2026-04-08"),
    ],
)
def test_lines_name_what_is_wrong(verb: MarkVerb, text: str) -> None:
    sink = MemorySink()
    archive_id = make(sink)
    put_mark(sink, archive_id, verb, clock=lambda: START)
    assert str(list_archives(sink)[0]).endswith(f"{archive_id}  {text}")
