"""
Every object of a repository in turn is changed, cut, emptied, swapped and deleted.

Verification names exactly the object and the archives it belongs to, worked out here from manifests that were read
before; what it says is lost is what cannot be read, and nothing else; repair from a replica heals.
"""

from __future__ import annotations

import datetime as dt
import functools
import random
from collections.abc import Callable, Iterator, Mapping

import attrs
import pytest
from repository_stage import MOMENT, StagedSource

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.errors import (
    BackupError,
    BlobNotFoundError,
    DecryptionError,
    ErasedTenantError,
    IntegrityError,
)
from knowtation_backup.model.reports import Coverage, Outcome, VerifyLevel
from knowtation_backup.model.sections import PAGE_BYTES, SectionKind
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.copying import copy
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.operations.repository.repairing import apply_repair, plan_repair
from knowtation_backup.operations.repository.replicating import lag, replicate
from knowtation_backup.operations.repository.verify_reports import ArchiveVerifyReport, RepositoryVerifyReport
from knowtation_backup.operations.repository.verifying import verify, verify_all
from knowtation_backup.repository import images, packing, recordsets
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.layout import ACCESS_PREFIX, CONFIG_KEY, TENANT_PREFIX, archive_id_at, archive_key
from knowtation_backup.repository.manifest import FileTable, ImageTables
from knowtation_backup.repository.reading import IndexReader
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink

Plain = Mapping[str, bytes | frozenset[bytes]]
Damage = Callable[[bytes], bytes | None]
"""From an object to what lies there instead; `None`: nothing."""
SWAPPED = b"another object of the kind"


def flip(at: float) -> Damage:
    def flipped(good: bytes) -> bytes:
        position = min(int(len(good) * at), len(good) - 1)
        return good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]

    return flipped


DAMAGES: Mapping[str, Damage] = {
    "first byte": flip(0),
    "head": lambda good: good[:5] + bytes([good[5] ^ 1]) + good[6:],
    "near the beginning": flip(0.01),
    "in the middle": flip(0.5),
    "near the end": flip(0.93),
    "last byte": flip(1),
    "cut in half": lambda good: good[: len(good) // 2],
    "one byte short": lambda good: good[:-1],
    "one byte more": lambda good: good + b"\0",
    "emptied": lambda _good: b"",
    "swapped": lambda _good: SWAPPED,
    "deleted": lambda _good: None,
}


@attrs.frozen(kw_only=True)
class Stage:
    """A repository as it should be."""

    repository: Repository
    blobs: Mapping[str, bytes]
    plain: Mapping[str, Plain]
    """Contents of sections, by archive."""
    users: Mapping[str, frozenset[str]]
    """Which archives need an object."""

    def damaged(self, key: str, damage: Damage) -> Repository:
        blobs = dict(self.blobs)
        kind = key.partition("/")[0]
        changed = damage(blobs.pop(key))
        if changed is SWAPPED:
            changed = next((data for other, data in blobs.items() if other.partition("/")[0] == kind), b"{}\n")
        sink = filled(blobs)
        if changed is not None:
            sink.put(key, [changed])
        return attrs.evolve(self.repository, sink=sink)

    def replica(self) -> Repository:
        return attrs.evolve(self.repository, sink=filled(self.blobs))


def filled(blobs: Mapping[str, bytes]) -> MemorySink:
    sink = MemorySink()
    for key, data in blobs.items():
        sink.put(key, [data])
    return sink


def changed(image: bytes, pages: Mapping[int, bytes]) -> bytes:
    parts = [image[at : at + PAGE_BYTES] for at in range(0, len(image), PAGE_BYTES)]
    for page, content in pages.items():
        parts[page] = content
    return b"".join(parts)


@functools.cache
def stage() -> Stage:
    patch = pytest.MonkeyPatch()
    patch.setattr(packing, "PACK_BYTES", 256 << 10)  # several packs, and several frames in each, from little content
    patch.setattr(images, "FRAME_PAGES", 32)
    patch.setattr(recordsets, "_FRAME_BYTES", 4 << 10)
    rng = random.Random(5)  # noqa: S311 - the same content in every run
    page = functools.partial(rng.randbytes, PAGE_BYTES)
    repository = Repository.create(MemorySink(), seal_to=EncryptionKey.generate(), tenant_keys=True)
    heap = b"".join(page() for _ in range(100)) + bytes(60 * PAGE_BYTES) + b"end"
    stable = b"".join(page() for _ in range(40))
    notes = {(b"t%d" % (n % 3), b"note-%d" % n): rng.randbytes(120) for n in range(400)}
    first = StagedSource(
        images={"heap.bin": heap, "stable.bin": stable},
        files={"module.wasm": rng.randbytes(1_500_000)},
        records={"notes": notes},
    )
    heap2 = changed(heap, {3: page(), 50: page(), 120: page()})
    second = attrs.evolve(
        first, images={"heap.bin": heap2, "stable.bin": stable}, records={"notes": {**notes, (b"t1", b"new"): b"new"}}
    )
    third = attrs.evolve(second, images={"heap.bin": changed(heap2, {3: page()}) + page(), "stable.bin": stable})
    other = StagedSource(
        images={"heap.bin": b"".join(page() for _ in range(10))}, files=first.files, source_id="bbbbb-bb"
    )
    plain: dict[str, Plain] = {}
    for number, source in enumerate((first, second, third, other)):
        moved = attrs.evolve(source, taken_at=MOMENT + dt.timedelta(hours=number))
        report = back_up(repository, moved)
        records = {name: frozenset(values.values()) for name, values in moved.records.items()}
        plain[report.archive_id] = {**moved.images, **moved.files, **records}
    patch.undo()
    users: dict[str, set[str]] = {CONFIG_KEY: set()}
    for archive_id in repository.archive_ids():
        manifest = repository.manifest(archive_id)
        for key in (archive_key(archive_id), *(key for key, _ in manifest.objects())):
            users.setdefault(key, set()).add(archive_id)
        if manifest.section("notes") is not None:  # each has records of all tenants
            for info in repository.sink.list(TENANT_PREFIX):
                users.setdefault(info.key, set()).add(archive_id)
    sink = repository.sink
    assert isinstance(sink, MemorySink)
    return Stage(
        repository=repository,
        blobs=sink.contents(),
        plain=plain,
        users={key: frozenset(archives) for key, archives in users.items()},
    )


def all_objects() -> list[str]:
    """Everything that archives need; access files are those of people."""
    return sorted(key for key in stage().blobs if key in stage().users and key != CONFIG_KEY)


def read_section(repository: Repository, archive_id: str, name: str) -> bytes | frozenset[bytes]:
    """Read a section; what comes before a failure is compared with what was backed up."""
    manifest = repository.manifest(archive_id)
    section = manifest.section(name)
    reader = ArchiveReader(repository.sink, repository.read_keys, manifest)
    match section:
        case ImageTables():
            parts: Iterator[bytes | memoryview] = (
                part.data if part.data is not None else bytes(part.size_bytes) for part in reader.image(section)
            )
        case FileTable():
            parts = reader.file(section)
        case _:
            assert section is not None
            return frozenset(record.value for group in reader.records(section) for record in group)
    expected = stage().plain[archive_id].get(name)
    read = b""
    for part in parts:
        read += part
        assert expected is None or (isinstance(expected, bytes) and expected.startswith(read)), "wrong bytes"
    return read


def check_reading(repository: Repository, report: ArchiveVerifyReport) -> None:
    """What is lost cannot be read, and everything else is as it was."""
    lost = {loss.section: loss for loss in report.losses}
    for name, content in stage().plain[report.archive_id].items():
        if name not in lost:
            assert read_section(repository, report.archive_id, name) == content
            continue
        with pytest.raises((IntegrityError, DecryptionError, BlobNotFoundError)):
            read_section(repository, report.archive_id, name)


@pytest.mark.parametrize("damage", DAMAGES)
def test_verification_names_what_is_affected_and_repair_heals(damage: str) -> None:
    for key in all_objects():
        repository = stage().damaged(key, DAMAGES[damage])
        report = verify_all(repository, record=False)
        if damage == "deleted" and archive_id_at(key) is not None:
            check_forgotten(repository, report, key)
            continue
        assert [item.key for item in report.objects] == [key], (damage, key)
        assert report.outcome is Outcome.DIFFERENT
        affected = stage().users[key]
        assert set(report.objects[0].archives) == affected
        assert {one.archive_id for one in report.failed} == affected
        for one in report.reports:
            if archive_key(one.archive_id) == key:
                with pytest.raises(BackupError):
                    repository.manifest(one.archive_id)
            else:
                check_reading(repository, one)
        check_repair(repository, key)


def check_forgotten(repository: Repository, report: RepositoryVerifyReport, key: str) -> None:
    """Deleting a manifest is forgetting: nobody can tell, but the replica has it."""
    archive_id = archive_id_at(key)
    assert report.ok
    assert {one.archive_id for one in report.reports} == stage().plain.keys() - {archive_id}
    replica = stage().replica()
    assert lag(replica, repository).missing == (archive_id,)
    assert copy(replica, repository).copied == {archive_id: archive_id}
    assert verify_all(repository, record=False).ok
    assert contents_of(repository) == stage().blobs


def test_erasing_a_tenant_is_no_damage() -> None:
    """Its key is gone as well, and nobody reads its records any more: a notice says that this was wanted."""
    repository = stage().replica()
    apply_erase_tenant(repository, plan_erase_tenant(repository, b"t1"))
    report = verify_all(repository, record=False)
    assert report.ok
    assert report.erased_records > 100
    (archive_id, *_) = repository.archive_ids()
    with pytest.raises(ErasedTenantError):
        read_section(repository, archive_id, "notes")
    for name in ("heap.bin", "stable.bin", "module.wasm"):
        assert read_section(repository, archive_id, name) == stage().plain[archive_id][name]


def check_repair(repository: Repository, key: str) -> None:
    replica = stage().replica()
    plan = plan_repair(repository, replica)
    assert [step.damage.key for step in plan.healing] == [key]
    done = apply_repair(repository, replica, plan)
    assert done.healed == (key,)
    assert done.outcome is Outcome.OK
    assert contents_of(repository) == stage().blobs
    assert verify_all(repository, record=False).ok


def contents_of(repository: Repository) -> Mapping[str, bytes]:
    sink = repository.sink
    assert isinstance(sink, MemorySink)
    return sink.contents()


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_configuration_is_compared_with_what_it_said(damage: str) -> None:
    repository = stage().damaged(CONFIG_KEY, DAMAGES[damage])
    report = verify_all(repository, record=False)
    if damage == "one byte short":  # the final newline
        assert report.ok
        return
    assert [item.key for item in report.objects] == [CONFIG_KEY]
    assert not report.failed
    assert report.outcome is Outcome.DIFFERENT
    check_repair(repository, CONFIG_KEY)


@pytest.mark.parametrize("damage", ["first byte", "emptied", "swapped"])
def test_the_header_of_access_files_is_looked_at(damage: str) -> None:
    (key,) = (key for key in stage().blobs if key.startswith(ACCESS_PREFIX))
    repository = stage().damaged(key, DAMAGES[damage])
    report = verify_all(repository, record=False)
    assert [item.key for item in report.objects] == [key]
    assert not report.failed
    check_repair(repository, key)


def test_the_stage_is_worth_damaging() -> None:
    kinds = {key.split("/")[0] for key in stage().blobs}
    assert kinds == {"repository.json", "keys", "packs", "indexes", "archives", "tenants"}
    packs = [key for key in stage().blobs if key.startswith("packs/")]
    shared = [key for key in packs if len(stage().users[key]) > 1]
    assert len(packs) >= 8
    assert len(shared) > 4
    assert len(shared) < len(packs)
    assert verify_all(stage().replica(), record=False).covered is Coverage.WHOLE


def test_losses_are_the_frames_that_changed_and_no_more() -> None:
    """One bit in each pack in turn: an image read page by page, past what is lost, shows the ranges to be exact."""
    exact = 0
    for key in (key for key in all_objects() if key.startswith("packs/")):
        repository = stage().damaged(key, DAMAGES["in the middle"])
        for report in verify_all(repository, record=False).failed:
            for loss in report.losses:
                if loss.kind is SectionKind.IMAGE:
                    expected = pages_in_bad_frames(repository, report.archive_id, loss.section, key)
                    assert [page for start, end in loss.pages for page in range(start, end)] == expected
                    exact += 1
    assert exact > 3


def pages_in_bad_frames(repository: Repository, archive_id: str, name: str, key: str) -> list[int]:
    """Work out from the tables which pages lie in frames that the changed byte is in."""
    manifest = stage().repository.manifest(archive_id)
    tables = manifest.section(name)
    assert isinstance(tables, ImageTables)
    place = len(stage().blobs[key]) // 2
    reader = IndexReader(repository.sink, repository.keys)
    where: dict[int, bool] = {}
    for table in reader.page_tables(manifest, tables.segments[0]):
        for first, count, position in zip(table.firsts, table.counts, table.positions, strict=True):
            for page in range(count):
                where[first + page] = False
                start = 0
                for frame in table.frames:
                    if position < 1 << 31 and start <= position + page < start + frame.items:
                        inside = frame.offset <= place < frame.offset + frame.length
                        where[first + page] = inside and frame.pack_id.hex() in key
                    start += frame.items
    size = -(-tables.size_bytes // PAGE_BYTES)
    return sorted(page for page, bad in where.items() if bad and page < size)


def test_a_writer_key_proves_stored_bytes_and_says_that_it_opened_nothing() -> None:
    good = stage().replica()
    closed = Repository.open_with(good.sink, good.writer_key)
    report = verify_all(closed, record=False)
    assert report.ok
    assert report.covered is Coverage.STORED
    assert "content not opened" in str(report)
    for key in all_objects():
        if key.startswith(TENANT_PREFIX):
            continue  # sealed to the repository key
        damaged = stage().damaged(key, DAMAGES["in the middle"])
        closed = Repository.open_with(damaged.sink, damaged.writer_key)
        found = verify_all(closed, record=False)
        assert [item.key for item in found.objects] == [key]
        assert {one.archive_id for one in found.failed} == stage().users[key]


@pytest.mark.parametrize("level", [VerifyLevel.STRUCTURE, VerifyLevel.PRESENCE])
def test_lower_levels_find_what_they_look_at(level: VerifyLevel) -> None:
    for key in all_objects():
        if key.startswith(TENANT_PREFIX):
            continue  # only opening what it is needed for shows what it is
        found = {
            name: [item.key for item in verify_all(stage().damaged(key, damage), level=level, record=False).objects]
            for name, damage in DAMAGES.items()
            if name in {"in the middle", "cut in half", "deleted"}
        }
        is_pack, is_manifest = key.startswith("packs/"), key.startswith("archives/")
        assert found["in the middle"] == ([] if is_pack else [key])
        assert found["cut in half"] == ([] if is_pack and level is VerifyLevel.STRUCTURE else [key])
        gone = is_manifest or (is_pack and level is VerifyLevel.STRUCTURE)
        assert found["deleted"] == ([] if gone else [key])


def test_two_replicas_that_are_damaged_differently_heal_together() -> None:
    packs = [key for key in all_objects() if key.startswith("packs/")]
    repository = stage().damaged(packs[0], DAMAGES["deleted"])
    repository = attrs.evolve(repository, sink=filled(contents_of(repository)))
    repository.sink.delete(packs[1])
    first, second = stage().damaged(packs[0], DAMAGES["emptied"]), stage().damaged(packs[1], DAMAGES["first byte"])
    plan = plan_repair(repository, [first, second])
    assert [(step.damage.key, step.replica_number) for step in plan.steps] == [(packs[0], 1), (packs[1], 0)]
    assert apply_repair(repository, [first, second], plan).outcome is Outcome.OK
    assert contents_of(repository) == stage().blobs


def test_what_no_replica_has_is_said_and_the_rest_is_healed() -> None:
    packs = [key for key in all_objects() if key.startswith("packs/")]
    repository = stage().damaged(packs[0], DAMAGES["deleted"])
    repository.sink.delete(packs[1])
    replica = stage().damaged(packs[0], DAMAGES["one byte more"])
    plan = plan_repair(repository, replica)
    assert "CANNOT BE HEALED" in str(plan)
    report = apply_repair(repository, replica, plan)
    assert report.healed == (packs[1],)
    assert [key for key, _ in report.unhealed] == [packs[0]]
    assert report.outcome is Outcome.PARTIAL
    assert [item.key for item in verify_all(repository, record=False).objects] == [packs[0]]


def test_one_archive_is_verified_by_itself() -> None:
    key = next(key for key in all_objects() if key.startswith("packs/") and len(stage().users[key]) == 1)
    repository = stage().damaged(key, DAMAGES["in the middle"])
    for archive_id in repository.archive_ids():
        report = verify(repository, archive_id, record=False)
        assert report.ok is (archive_id not in stage().users[key])


def test_a_replica_is_the_same_objects() -> None:
    sink = MemorySink(permissions="lrw")
    report = replicate(stage().repository, sink)
    assert len(report.copied) == len(stage().plain)
    assert sink.contents() == stage().blobs
