"""
Bytes that somebody sealed who should not have: a stolen writer key makes manifests, indexes and packs that open.

Whatever they claim, reading them ends with a `BackupError` or values within bounds, and in little memory.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from repository_stage import MOMENT, StagedSource, new_repository

from knowtation_backup.errors import BackupError, IntegrityError, ManifestError, TruncatedError
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.frames import (
    MAX_CONTENT_BYTES,
    MAX_FILE_BYTES,
    FileHead,
    FileKind,
    content_of,
    open_file,
    parse_head,
    seal_small,
    split_frames,
    unpacked,
)
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.layout import archive_id_of, archive_key, index_key, object_id, pack_key
from knowtation_backup.repository.manifest import ArchiveManifest, ImageTables, RecordTables
from knowtation_backup.repository.opening import values_of
from knowtation_backup.repository.reading import IndexReader
from knowtation_backup.repository.repository import Repository
from knowtation_backup.repository.tables import NOWHERE, SEGMENT_PAGES, FrameRef, PageTable, RecordTable
from knowtation_backup.sinks.memory import MemorySink

KEYS = ReadKeys.generate()
PACK = bytes(range(32))
MIB = 1 << 20
numbers = st.one_of(st.integers(0, 40), st.integers(0, 0xFFFFFFFF))


@contextmanager
def memory_below(size_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size_bytes
    finally:
        tracemalloc.stop()


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def survives(parse: Callable[[], object]) -> None:
    """Run a parser, which returns or raises what every caller handles."""
    with suppress(BackupError):
        parse()


@given(st.binary(max_size=400), st.binary(max_size=100))
def test_arbitrary_bytes_are_no_table_of_pages(data: bytes, ids: bytes) -> None:
    survives(lambda: PageTable.from_bytes(data, ids))


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_table_of_records(data: bytes) -> None:
    survives(lambda: RecordTable.from_bytes(data))


@given(st.lists(st.tuples(numbers, numbers, numbers), max_size=4), st.lists(st.lists(numbers, min_size=5, max_size=5)))
def test_tables_that_parse_are_within_bounds(extents: list[tuple[int, int, int]], frames: list[list[int]]) -> None:
    columns = [words(*column) for column in zip(*extents, strict=True)] if extents else []
    places = [words(*column) for column in zip(*frames, strict=True)] if frames else []
    stored = sum(count for _, count, position in extents if position != NOWHERE)
    ids = b"\x07" * 16 * min(stored, SEGMENT_PAGES)
    data = b"".join((words(len(extents)), *columns, words(1), PACK, words(len(frames)), *places))
    try:
        table = PageTable.from_bytes(data, ids)
    except IntegrityError:
        return
    ends = [first + count for first, count in zip(table.firsts, table.counts, strict=True)]
    assert all(end <= SEGMENT_PAGES for end in ends)
    assert all(frame.length <= MAX_CONTENT_BYTES + 8192 and frame.items <= 1024 for frame in table.frames)


@pytest.mark.parametrize(
    "data",
    [
        words(0xFFFFFFFF),
        words(0, 0xFFFFFFFF),
        words(0, 0, 0xFFFFFFFF),
        words(0, 0, 0, 0),
        words(1, 0, SEGMENT_PAGES + 1, NOWHERE, 0, 0),
        words(1, SEGMENT_PAGES, 1, NOWHERE, 0, 0),
        words(1, 0, 0, NOWHERE, 0, 0),
        words(1, 0, 1, 0, 0, 0),
        words(2, 0, 0, 2, 1, NOWHERE, NOWHERE, 0, 0),
        words(0, 1) + PACK + words(1, 1, 0, 0, 0, 0),
        words(0, 1) + PACK + words(1, 0, 0, 0, MAX_CONTENT_BYTES + 8192, 0),
        words(0, 1) + PACK + words(1, 0, 0, 0, 0, 1025),
    ],
    ids=[
        "extents",
        "packs",
        "frames",
        "surplus",
        "beyond the segment",
        "behind the segment",
        "empty extent",
        "stored nowhere",
        "overlapping",
        "unlisted pack",
        "long frame",
        "many pages",
    ],
)
def test_tables_that_lie_are_refused(data: bytes) -> None:
    with memory_below(MIB), pytest.raises(IntegrityError) as caught:
        PageTable.from_bytes(data, b"")
    assert caught.value.kind == "bad_table"


def test_a_stored_page_of_zeros_is_refused() -> None:
    table = PageTable([0], [2], [0], [FrameRef(PACK, 0, 0, 100, 2)], b"\x01" * 16 + bytes(16))
    with pytest.raises(IntegrityError, match="zeros"):
        PageTable.from_bytes(table.to_bytes(), table.ids)
    # 16 zero bytes that are no id: the end of one and the beginning of the next
    apart = PageTable([0], [2], [0], table.frames, b"\x01" * 8 + bytes(16) + b"\x01" * 8)
    assert PageTable.from_bytes(apart.to_bytes(), apart.ids).ids == apart.ids


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_frame_of_records(content: bytes) -> None:
    survives(lambda: values_of(content))


@pytest.mark.parametrize("content", [b"", words(0xFFFFFFFF), words(1, 0xFFFFFFFF), words(2, 1, 1) + b"abc"])
def test_frames_of_records_that_lie_are_refused(content: bytes) -> None:
    with memory_below(MIB), pytest.raises(IntegrityError):
        values_of(content)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_body(body: bytes) -> None:
    survives(lambda: content_of(body))
    survives(lambda: content_of(b"\x01" + body))


def test_bombs_do_not_unpack() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(512 * MIB))
    assert len(bomb) < MAX_CONTENT_BYTES
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * MIB))
    lying = zstandard.ZstdCompressor().compress(bytes(MAX_CONTENT_BYTES))
    shorter = lying.replace(MAX_CONTENT_BYTES.to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert shorter != lying
    for packed in (bomb, streamed, shorter):
        with memory_below(8 * MIB), pytest.raises(IntegrityError):
            unpacked(packed)


@given(st.binary(max_size=300), st.sampled_from(FileKind))
def test_arbitrary_bytes_are_no_file(data: bytes, kind: FileKind) -> None:
    survives(lambda: list(open_file(kind, data, KEYS)))
    survives(lambda: list(open_file(kind, b"KBR1" + bytes([kind]) + data, KEYS)))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_behind_a_head_are_no_frames(data: bytes) -> None:
    head = FileHead.new(FileKind.INDEX, KEYS.writer_key)
    survives(lambda: split_frames(head, memoryview(head.stored + data)))
    survives(lambda: list(open_file(FileKind.INDEX, head.stored + data, KEYS)))


def test_a_frame_may_not_claim_more_than_there_is_or_can_be() -> None:
    head = FileHead.new(FileKind.INDEX, KEYS.writer_key)
    for length, error in ((0xFFFFFFFF, IntegrityError), (1000, TruncatedError), (3, TruncatedError)):
        with pytest.raises(error):
            split_frames(head, memoryview(head.stored + length.to_bytes(4, "big") + bytes(100)))
    with pytest.raises(TruncatedError):
        split_frames(head, memoryview(head.stored))


def test_many_frames_of_zeros_do_not_fill_the_memory() -> None:
    contents = [bytes(MAX_CONTENT_BYTES)] * (MAX_FILE_BYTES // MAX_CONTENT_BYTES)
    small = seal_small(FileKind.INDEX, KEYS.writer_key, contents)
    assert sum(map(len, open_file(FileKind.INDEX, small, KEYS))) == MAX_FILE_BYTES
    with pytest.raises(BackupError):
        seal_small(FileKind.INDEX, KEYS.writer_key, [*contents, b"."])
    head = FileHead.new(FileKind.INDEX, KEYS.writer_key)
    body = b"\x01" + zstandard.compress(bytes(MAX_CONTENT_BYTES))
    bomb = head.stored + b"".join(head.seal(number, body, last=number == 499) for number in range(500))
    with pytest.raises(IntegrityError, match="when unpacked"):
        for _ in open_file(FileKind.INDEX, bomb, KEYS):
            pass


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_head(data: bytes) -> None:
    for kind in FileKind:
        survives(lambda kind=kind: parse_head(kind, data, KEYS))  # type: ignore[misc]


# -- manifests ------------------------------------------------------------------------------------------------------


def manifest_value() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(good().to_bytes())
    return value


def staged() -> tuple[Repository, str]:
    repository = new_repository(MemorySink())
    source = StagedSource(
        images={"heap.bin": b"x" * 3 * PAGE_BYTES}, files={"f": b"file"}, records={"notes": {(b"a", b"b"): b"value"}}
    )
    return repository, back_up(repository, source).archive_id


def good() -> ArchiveManifest:
    repository, archive_id = staged()
    return repository.manifest(archive_id)


GOOD = manifest_value()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_manifest(data: bytes) -> None:
    survives(lambda: ArchiveManifest.from_bytes(data))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(places(GOOD))), json_values)
def test_a_manifest_with_any_other_value_is_read_or_refused(path: tuple[Any, ...], new: Any) -> None:
    data = json.dumps(replaced(GOOD, path, new)).encode()
    try:
        manifest = ArchiveManifest.from_bytes(data)
    except BackupError:
        return
    assert ArchiveManifest.from_bytes(manifest.to_bytes()) == manifest


@pytest.mark.parametrize("new", [-1, 1 << 64, True, 1.5, "1", None])
def test_numbers_of_a_manifest_are_numbers_of_things(new: object) -> None:
    counted = [
        path
        for path in places(GOOD)
        if isinstance(at(path), int) and not isinstance(at(path), bool) and path[0] in {"sections", "packs", "indexes"}
    ]
    assert len(counted) > 10
    for path in counted:
        with pytest.raises(ManifestError):
            ArchiveManifest.from_bytes(json.dumps(replaced(GOOD, path, new)).encode())


def at(path: tuple[Any, ...]) -> Any:
    value = GOOD
    for key in path:
        value = value[key]
    return value


def test_two_sections_of_one_name_are_refused() -> None:
    twice = replaced(GOOD, ("sections",), [*GOOD["sections"], GOOD["sections"][0]])
    with pytest.raises(ManifestError, match="one name"):
        ArchiveManifest.from_bytes(json.dumps(twice).encode())


# -- whole repositories ---------------------------------------------------------------------------------------------


def published(repository: Repository, manifest: ArchiveManifest) -> str:
    """Store a manifest as somebody with the index key can."""
    stored = seal_small(FileKind.MANIFEST, repository.writer_key, [manifest.to_bytes()])
    archive_id = archive_id_of(manifest.taken_at, stored)
    repository.sink.put(archive_key(archive_id), [stored])
    return archive_id


def with_index(repository: Repository, manifest: ArchiveManifest, *contents: bytes) -> ArchiveManifest:
    stored = seal_small(FileKind.INDEX, repository.writer_key, contents)
    repository.sink.put(index_key(object_id(stored)), [stored])
    ref = attrs.evolve(manifest.indexes[0], object_id=object_id(stored), size_bytes=len(stored))
    return attrs.evolve(manifest, indexes=(ref, *manifest.indexes[1:]))


def page_table_of(repository: Repository, manifest: ArchiveManifest) -> PageTable:
    section = manifest.section("heap.bin")
    assert isinstance(section, ImageTables)
    return IndexReader(repository.sink, repository.keys).page_tables(manifest, section.segments[0])[0]


def only_image(manifest: ArchiveManifest) -> ArchiveManifest:
    section = manifest.section("heap.bin")
    assert isinstance(section, ImageTables)
    return attrs.evolve(manifest, sections=(section,), taken_at=MOMENT.replace(year=2027))


FRAME_LIES: dict[str, Callable[[FrameRef], FrameRef]] = {
    "another frame": lambda frame: attrs.evolve(frame, number=frame.number + 1),
    "another place": lambda frame: attrs.evolve(frame, offset=frame.offset + 1),
    "beyond the end": lambda frame: attrs.evolve(frame, offset=0xFFFFFFF0),
    "longer": lambda frame: attrs.evolve(frame, length=frame.length + 1),
    "no bytes": lambda frame: attrs.evolve(frame, length=0),
    "an unknown pack": lambda frame: attrs.evolve(frame, pack_id=PACK),
}


@pytest.mark.parametrize("lie", FRAME_LIES)
def test_tables_that_lead_elsewhere_are_found_and_nothing_wrong_is_read(lie: str) -> None:
    repository, archive_id = staged()
    manifest = only_image(repository.manifest(archive_id))
    table = page_table_of(repository, manifest)
    lying = attrs.evolve(table, frames=[FRAME_LIES[lie](frame) for frame in table.frames])
    bad = published(repository, with_index(repository, manifest, lying.to_bytes(), lying.ids))
    report = verify_all(repository, record=False)
    assert [one.archive_id for one in report.failed] == [bad]
    found = repository.manifest(bad)
    section = found.section("heap.bin")
    assert isinstance(section, ImageTables)
    with memory_below(64 * MIB), pytest.raises(BackupError):
        list(ArchiveReader(repository.sink, repository.read_keys, found).image(section))


def test_tables_with_other_ids_are_found() -> None:
    repository, archive_id = staged()
    manifest = only_image(repository.manifest(archive_id))
    table = page_table_of(repository, manifest)
    lying = attrs.evolve(table, ids=b"\x09" * len(table.ids))
    section = manifest.sections[0]
    assert isinstance(section, ImageTables)
    root = repository.writer_key.digest(b"image")
    root.update(lying.ids + section.size_bytes.to_bytes(8, "big"))
    agreeing = attrs.evolve(manifest, sections=(attrs.evolve(section, root=root.digest()),))
    lone = published(repository, with_index(repository, agreeing, lying.to_bytes(), lying.ids))
    (failed,) = verify_all(repository, record=False).failed
    assert failed.archive_id == lone
    assert {finding.code for finding in failed.findings} == {"content_changed", "content_lost"}
    assert failed.losses[0].pages == ((0, 3),)
    other = published(repository, with_index(repository, manifest, lying.to_bytes(), lying.ids))
    found = {one.archive_id: one for one in verify_all(repository, record=False).failed}
    assert {finding.code for finding in found[other].findings} >= {"root_changed", "content_lost"}


def test_a_pack_of_anything_is_found_and_not_read() -> None:
    repository, archive_id = staged()
    manifest = only_image(repository.manifest(archive_id))
    junk = b"KBR1\x01\x01\x00\x01" + bytes(5000)
    repository.sink.put(pack_key(object_id(junk)), [junk])
    ref = attrs.evolve(manifest.packs[0], object_id=object_id(junk), size_bytes=len(junk))
    table = page_table_of(repository, manifest)
    lying = attrs.evolve(table, frames=[attrs.evolve(frame, pack_id=ref.object_id) for frame in table.frames])
    manifest = attrs.evolve(manifest, packs=(ref, *manifest.packs[1:]))
    bad = published(repository, with_index(repository, manifest, lying.to_bytes(), lying.ids))
    (failed,) = verify_all(repository, record=False).failed
    assert failed.archive_id == bad
    assert pack_key(ref.object_id) in {finding.where for finding in failed.findings}


def test_records_in_the_wrong_number_of_segments_are_refused() -> None:
    repository, archive_id = staged()
    manifest = repository.manifest(archive_id)
    section = manifest.section("notes")
    assert isinstance(section, RecordTables)
    lying = attrs.evolve(manifest, sections=(attrs.evolve(section, bits=8),), taken_at=MOMENT.replace(year=2027))
    bad = published(repository, lying)
    assert [one.archive_id for one in verify_all(repository, record=False).failed] == [bad]
    found = repository.manifest(bad)
    with pytest.raises(IntegrityError):
        list(ArchiveReader(repository.sink, repository.read_keys, found).records(found.sections[0]))  # type: ignore[arg-type]
