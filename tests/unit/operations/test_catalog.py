"""Listing from the store alone, and finding one archive by a short name."""

import datetime as dt
import json

import attrs
import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    SinkPermissionError,
    SinkUnavailableError,
)
from knowtation_backup.model.manifest import manifest_key
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import find_archive, list_archives, resolve_archive
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

START = dt.datetime(2026, 4, 8, 15, 30, 22, 500_000, tzinfo=dt.UTC)
CODEC = Ktb1Codec(EncryptionKey.generate())


def make(sink: MemorySink, days: int = 0, **changes: object) -> str:
    source = FakeSource(**changes)  # type: ignore[arg-type]  # any field of the fake
    return backup(source, sink, CODEC, clock=lambda: START + dt.timedelta(days=days)).archive_id


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
        with pytest.raises(BlobNotFoundError, match="1 archives are incomplete, damaged or of another series"):
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
