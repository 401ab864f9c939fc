"""Tenants with keys of their own: frames of their own, keys beside the packs, and what a missing key means."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository_stage import MOMENT, Records, StagedSource, new_repository

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.errors import (
    BackupError,
    BlobNotFoundError,
    ConfigurationError,
    ErasedTenantError,
    IntegrityError,
    ManifestError,
    NoMatchingKeyError,
    SinkUnavailableError,
    TamperedError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.operations.repository.backup import RepositoryBackupReport, back_up
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.repository.config import RepositoryConfig
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.frames import Compressor, FileHead, FileKind, content_of, open_file, parse_head
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.layout import PACK_PREFIX, TENANT_PREFIX, tenant_key_named
from knowtation_backup.repository.manifest import ArchiveManifest, RecordTables
from knowtation_backup.repository.reading import IndexReader
from knowtation_backup.repository.repository import Repository, read_config
from knowtation_backup.repository.tables import TenantTable
from knowtation_backup.repository.tenants import TenantOpener, TenantSealer
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

KEYS = ReadKeys.generate()
ANNA, BEN, CARL = b"anna", b"ben", b"carl"
_HOURS = itertools.count()


def _records(*owners: bytes, notes: int = 3, word: bytes = b"first") -> dict[tuple[bytes, bytes], bytes]:
    return {(owner, b"note %d" % n): b"%b: %b %d" % (owner, word, n) for owner in owners for n in range(notes)}


def _backup(repository: Repository, records: Records, *, more: Records | None = None) -> RepositoryBackupReport:
    sections = {"notes": records} | ({"proposals": more} if more is not None else {})
    taken_at = MOMENT + dt.timedelta(hours=next(_HOURS))
    return back_up(repository, StagedSource(records=sections, kind="export", taken_at=taken_at))


def _tables(manifest: ArchiveManifest, name: str = "notes") -> RecordTables:
    tables = manifest.section(name)
    assert isinstance(tables, RecordTables)
    return tables


def _read(repository: Repository, report: RepositoryBackupReport, *, name: str = "notes") -> set[bytes]:
    reader = ArchiveReader(repository.sink, repository.read_keys, report.manifest, tenant_sink=repository.tenant_sink)
    return {record.value for group in reader.records(_tables(report.manifest, name)) for record in group}


def _tenant_keys(sink: MemorySink, owner: bytes | None = None) -> list[str]:
    keys = [key for key in sink.contents() if tenant_key_named(key) is not None]
    if owner is None:
        return keys
    return [key for key in keys if KEYS.writer_key.tenant_id(owner).hex() in key]


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def repository(sink: MemorySink) -> Repository:
    return new_repository(sink, keys=KEYS, tenant_keys=True)


def test_every_tenant_has_one_key_and_everything_reads(repository: Repository, sink: MemorySink) -> None:
    records, more = _records(ANNA, BEN), _records(BEN, CARL, word=b"proposed")
    report = _backup(repository, records, more=more)
    assert _read(repository, report) == set(records.values())
    assert _read(repository, report, name="proposals") == set(more.values())
    named = [tenant_key_named(key) for key in _tenant_keys(sink)]
    assert {name[0] for name in named if name} == {KEYS.writer_key.tenant_id(owner) for owner in (ANNA, BEN, CARL)}
    assert len(named) == 3


def test_no_two_tenants_share_a_frame(repository: Repository) -> None:
    report = _backup(repository, _records(ANNA, BEN) | _records(b"", word=b"nobody's"))
    reader = ArchiveReader(repository.sink, KEYS, report.manifest)
    frames: dict[object, set[bytes]] = {}
    for key, place in reader.record_places(_tables(report.manifest)).items():
        frames.setdefault(place.frame, set()).add(key[:8])
    assert [len(owners) for owners in frames.values()] == [1, 1, 1]
    assert len(_tenant_keys(repository.sink)) == 2  # type: ignore[arg-type]  # a memory sink


def test_nobody_opens_a_frame_with_the_repository_key_alone(repository: Repository, sink: MemorySink) -> None:
    report = _backup(repository, _records(ANNA, notes=50))
    found = _opened_packs(sink, KEYS)
    assert found
    for body in found:
        assert b"first" not in body
    assert len([body for body in found if body[0] in {2, 3}]) == 1
    assert _read(repository, report)


def _opened_packs(sink: MemorySink, keys: ReadKeys) -> list[bytes]:
    """Bodies of all frames of all packs, decompressed where that is possible."""
    found: list[bytes] = []
    for key, stored in sink.contents().items():
        if not key.startswith(PACK_PREFIX):
            continue
        head = parse_head(FileKind.PACK, stored, keys)
        at, number = len(head.stored), 0
        while at < len(stored):
            length = int.from_bytes(stored[at : at + 4], "big")
            body = head.open(number, stored[at + 4 : at + 4 + length])
            found.append(body if body[0] in {2, 3} else b"\0" + content_of(body))
            at, number = at + 4 + length, number + 1
    return found


def test_an_unchanged_tenant_costs_nothing(repository: Repository, sink: MemorySink) -> None:
    records = _records(ANNA, BEN, notes=40)
    _backup(repository, records)
    keys, before = _tenant_keys(sink), sink.contents()
    same = _backup(repository, records)
    assert same.sections[0].stored == 0
    assert not [key for key in sink.contents().keys() - before.keys() if key.startswith("indexes/")]
    changed = _backup(repository, records | {(ANNA, b"note 0"): b"changed"})
    assert changed.sections[0].stored == 1
    assert _tenant_keys(sink) == keys
    assert _tables(changed.manifest).tenants[0] == _tables(same.manifest).tenants[0]
    assert _read(repository, changed) == set(records.values()) - {records[ANNA, b"note 0"]} | {b"changed"}


def test_new_tenants_add_a_table_and_chains_are_bounded() -> None:
    sink = MemorySink()
    repository = new_repository(sink, keys=KEYS, tenant_keys=True, max_chain=3)
    owners: list[bytes] = []
    lengths: list[int] = []
    for number in range(8):
        owners.append(b"tenant %d" % number)
        report = _backup(repository, _records(*owners))
        tables = _tables(report.manifest)
        lengths.append(len(tables.tenants))
        assert len(IndexReader(sink, KEYS).tenants(report.manifest, tables)) == len(owners)
        assert _read(repository, report) == set(_records(*owners).values())
    assert lengths == [1, 2, 3, 1, 2, 3, 1, 2]
    assert len(_tenant_keys(sink)) == 8


def test_keys_lie_where_they_are_told_to(sink: MemorySink) -> None:
    beside = MemorySink()
    made = Repository.create_with(
        sink, KEYS, new_repository(MemorySink(), keys=KEYS, tenant_keys=True).config, tenant_sink=beside
    )
    report = _backup(made, _records(ANNA))
    assert not _tenant_keys(sink)
    assert len(_tenant_keys(beside)) == 1
    assert _read(Repository.open_with(sink, KEYS, tenant_sink=beside), report) == set(_records(ANNA).values())
    for keys in (KEYS, KEYS.writer_key):
        with pytest.raises(ConfigurationError) as caught:
            Repository.open_with(sink, keys)
        assert caught.value.kind == "tenant_sink_needed"


def test_where_keys_lie_is_said_and_heeded(sink: MemorySink) -> None:
    beside, recipient = MemorySink(), EncryptionKey.generate()
    with pytest.raises(ConfigurationError) as caught:
        Repository.create(sink, seal_to=recipient, tenant_sink=beside)
    assert (caught.value.kind, sink.contents()) == ("no_tenant_keys", {})
    Repository.create(sink, seal_to=recipient, tenant_keys=True, tenant_sink=beside)
    assert read_config(sink).tenants_elsewhere
    assert Repository.open(sink, recipient, tenant_sink=beside).tenant_sink is beside
    with pytest.raises(ConfigurationError) as caught:
        Repository.open(sink, recipient)
    assert caught.value.kind == "tenant_sink_needed"
    other = MemorySink()
    with pytest.raises(ConfigurationError) as caught:
        Repository.create_with(
            other, KEYS, RepositoryConfig(repository_id=KEYS.repository_id, tenant_keys=True, tenants_elsewhere=True)
        )
    assert (caught.value.kind, other.contents()) == ("tenant_sink_needed", {})
    for tenant_keys in (True, False):
        with_it = MemorySink()
        new_repository(with_it, keys=KEYS, tenant_keys=tenant_keys)
        with pytest.raises(ConfigurationError) as caught:
            Repository.open_with(with_it, KEYS, tenant_sink=beside)
        assert caught.value.kind == "tenant_sink_unexpected"


# -- erased tenants ------------------------------------------------------------------------------------------------


def _erase(repository: Repository, owner: bytes) -> None:
    apply_erase_tenant(repository, plan_erase_tenant(repository, owner))


def _lose(sink: MemorySink, owner: bytes | None = None) -> None:
    for key in _tenant_keys(sink, owner):
        sink.delete(key)


def test_others_read_on_and_the_erased_are_named(repository: Repository, sink: MemorySink) -> None:
    report = _backup(repository, _records(ANNA, BEN, CARL))
    _erase(repository, BEN)
    told: dict[bytes, int] = {}
    reader = ArchiveReader(sink, KEYS, report.manifest)
    groups = list(reader.records(_tables(report.manifest), on_erased=told.__setitem__))
    assert {record.value for group in groups for record in group} == set(_records(ANNA, CARL).values())
    assert told == {KEYS.writer_key.owner_key(BEN): 3}
    assert list(reader.records(_tables(report.manifest), owner=ANNA))
    with pytest.raises(ErasedTenantError) as caught:
        list(reader.records(_tables(report.manifest), owner=BEN))
    assert caught.value.kind == "tenant_erased"
    assert BEN.decode() not in str(caught.value)


def test_without_being_told_it_is_an_error_after_everybody_else(repository: Repository, sink: MemorySink) -> None:
    report = _backup(repository, _records(ANNA, BEN, CARL))
    _erase(repository, ANNA)
    seen: set[bytes] = set()
    reader = ArchiveReader(sink, KEYS, report.manifest)
    groups = reader.records(_tables(report.manifest))
    with pytest.raises(ErasedTenantError):
        seen.update(record.value for group in groups for record in group)
    assert seen == set(_records(BEN, CARL).values())


def test_a_tenant_that_comes_back_gets_a_new_key_and_is_stored_again(repository: Repository, sink: MemorySink) -> None:
    records = _records(ANNA, BEN)
    first = _backup(repository, records)
    (old,) = _tenant_keys(sink, ANNA)
    _erase(repository, ANNA)
    again = _backup(repository, records)
    (new,) = _tenant_keys(sink, ANNA)
    assert new != old
    assert again.sections[0].stored == 3
    assert _read(repository, again) == set(records.values())
    with pytest.raises(ErasedTenantError):
        _read(repository, first)
    third = _backup(repository, records)
    assert third.sections[0].stored == 0
    assert _read(repository, third) == set(records.values())


def test_a_tenant_that_is_gone_from_the_source_stays_gone(repository: Repository, sink: MemorySink) -> None:
    _backup(repository, _records(ANNA, BEN))
    _erase(repository, ANNA)
    report = _backup(repository, _records(BEN))
    assert not _tenant_keys(sink, ANNA)
    assert _read(repository, report) == set(_records(BEN).values())


# -- lost keys -------------------------------------------------------------------------------------------------------


def test_a_key_that_is_lost_is_told_from_one_that_was_destroyed(repository: Repository, sink: MemorySink) -> None:
    report = _backup(repository, _records(ANNA, BEN, CARL))
    _erase(repository, ANNA)
    _lose(sink, BEN)
    erased: dict[bytes, int] = {}
    lost: dict[bytes, int] = {}
    tables = _tables(report.manifest)
    reader = ArchiveReader(sink, KEYS, report.manifest)
    groups = list(reader.records(tables, on_erased=erased.__setitem__, on_lost=lost.__setitem__))
    assert {record.value for group in groups for record in group} == set(_records(CARL).values())
    owner_key = KEYS.writer_key.owner_key
    assert (erased, lost) == ({owner_key(ANNA): 3}, {owner_key(BEN): 3})
    with pytest.raises(ErasedTenantError) as caught:
        list(reader.records(tables, on_erased=erased.__setitem__))
    assert (caught.value.kind, BEN.decode() in str(caught.value)) == ("tenant_key_lost", False)


@pytest.mark.parametrize("content", [b"", b"x" * 300, None])
def test_nobody_without_a_key_of_the_repository_says_that_a_tenant_was_erased(
    repository: Repository, sink: MemorySink, content: bytes | None
) -> None:
    report = _backup(repository, _records(ANNA, BEN))
    (key,) = _tenant_keys(sink, ANNA)
    forged = key.removesuffix(".tenant") + ".erased"
    if content is None:  # a genuine notice, of another tenant
        _erase(repository, BEN)
        content = next(stored for name, stored in sink.contents().items() if name.endswith(".erased"))
    sink.put(forged, (content,))
    again = _backup(repository, _records(ANNA))
    assert again.sections[0].stored == 0  # a notice that says nothing does not make a writer store it again
    _lose(sink, ANNA)
    with pytest.raises(ErasedTenantError) as caught:
        list(ArchiveReader(sink, KEYS, report.manifest).records(_tables(report.manifest), owner=ANNA))
    assert caught.value.kind == "tenant_key_lost"


def test_a_backup_says_whose_keys_are_lost_and_stores_their_records_again(
    repository: Repository, sink: MemorySink
) -> None:
    records = _records(ANNA, BEN, CARL)
    _backup(repository, records)
    _erase(repository, CARL)
    assert _backup(repository, records).warnings == ()
    _lose(sink)
    again = _backup(repository, records, more=_records(BEN))
    assert [(found.code, found.message.split(maxsplit=3)[2]) for found in again.warnings] == [("tenant_key_lost", "3")]
    assert _read(repository, again) == set(records.values())
    assert _backup(repository, records).warnings == ()


# -- writing -------------------------------------------------------------------------------------------------------


def test_a_key_is_stored_before_the_pack_that_needs_it() -> None:
    order: list[str] = []

    class _Noting(MemorySink):
        def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
            order.append(key)
            return super()._put(key, chunks)

    sink = _Noting()
    made = new_repository(sink, keys=KEYS, tenant_keys=True)
    _backup(made, _records(*(b"tenant %d" % number for number in range(30))))
    packs = [place for place, key in enumerate(order) if key.startswith(PACK_PREFIX)]
    keys = [place for place, key in enumerate(order) if key.startswith(TENANT_PREFIX)]
    assert len(keys) == 30
    assert max(keys) < min(packs)


@pytest.mark.parametrize("moment", FaultMoment)
def test_whatever_fails_every_archive_that_is_listed_reads(moment: FaultMoment) -> None:
    records = _records(ANNA, BEN)
    for failing in range(60):
        sink = MemorySink()
        new_repository(sink, keys=KEYS, tenant_keys=True)
        faulty = Repository.open_with(sink, KEYS)
        faulty = Repository(sink=FaultSink(sink, fail_at=failing, moment=moment), keys=KEYS, config=faulty.config)
        try:
            _backup(faulty, records)
        except SinkUnavailableError:
            pass
        else:
            assert failing > 5
            return
        whole = Repository.open_with(sink, KEYS)
        report = _backup(whole, records)
        for archive_id in whole.archive_ids():
            reader = ArchiveReader(sink, KEYS, whole.manifest(archive_id))
            values = {r.value for group in reader.records(_tables(whole.manifest(archive_id))) for r in group}
            assert values == set(records.values())
        assert report.archive_id in whole.archive_ids()
    raise AssertionError


def test_a_writer_key_opens_no_key_of_a_tenant(repository: Repository, sink: MemorySink) -> None:
    _backup(Repository.open_with(repository.sink, KEYS.writer_key), _records(ANNA))
    (key,) = _tenant_keys(sink)
    with pytest.raises(NoMatchingKeyError):
        list(open_file(FileKind.TENANT_KEY, sink.contents()[key], KEYS.writer_key))


# -- damage --------------------------------------------------------------------------------------------------------


def _flip(stored: bytes) -> bytes:
    return stored[:-1] + bytes([stored[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [_flip, lambda stored: stored[:-5], lambda _stored: b"", lambda stored: b"KBR1\x01" + stored[5:]],
    ids=["bit", "cut", "empty", "other kind"],
)
def test_a_damaged_key_is_damage_and_not_an_erasure(
    repository: Repository, sink: MemorySink, damage: Callable[[bytes], bytes]
) -> None:
    report = _backup(repository, _records(ANNA))
    (key,) = _tenant_keys(sink)
    stored = sink.contents()[key]
    sink.delete(key)
    sink.put(key, (damage(stored),))
    with pytest.raises(BackupError) as caught:
        _read(repository, report)
    assert not isinstance(caught.value, ErasedTenantError | BlobNotFoundError)
    assert caught.value.kind == "object_changed"
    assert caught.value.context["key"] == key


def test_the_key_of_another_tenant_under_ones_name(repository: Repository, sink: MemorySink) -> None:
    report = _backup(repository, _records(ANNA, BEN))
    (anna,), (ben,) = _tenant_keys(sink, ANNA), _tenant_keys(sink, BEN)
    stored = sink.contents()
    sink.delete(anna)
    sink.put(anna, (stored[ben],))
    with pytest.raises(IntegrityError) as caught:
        _read(repository, report)
    assert caught.value.kind == "object_changed"


@given(st.dictionaries(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32), max_size=20))
def test_tables_of_tenants_survive(keys: dict[bytes, bytes]) -> None:
    assert TenantTable.from_bytes(TenantTable(keys).to_bytes()).keys == keys


@given(st.binary(max_size=300))
def test_hostile_tables_of_tenants(data: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        assert len(TenantTable.from_bytes(data).keys) <= len(data) // 48


@pytest.mark.parametrize("tenants", [[[9, 0]], [[0]], [[0, -1]], [["0", 0]], 7, [[0, 0, 0]]])
def test_hostile_manifests(repository: Repository, tenants: object) -> None:
    manifest = _backup(repository, _records(ANNA)).manifest
    stored = manifest.to_bytes()
    good = b'"tenants":[[0,%d]]' % _tables(manifest).tenants[0].frame
    assert good in stored
    assert ArchiveManifest.from_bytes(stored).to_bytes() == stored
    changed = stored.replace(good, b'"tenants":' + str(tenants).replace("'", '"').encode())
    with pytest.raises(ManifestError):
        ArchiveManifest.from_bytes(changed)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x02", b"\x03"]))
def test_hostile_bodies(data: bytes, begin: bytes) -> None:
    head = FileHead.new(FileKind.PACK, KEYS.writer_key)
    with contextlib.suppress(BackupError):
        TenantOpener(MemorySink(), KEYS).content_of(begin + data, head)


def test_a_frame_of_one_tenant_does_not_open_as_anothers() -> None:
    sink = MemorySink()
    head = FileHead.new(FileKind.PACK, KEYS.writer_key)
    anna, ben = (TenantSealer.new(KEYS.writer_key.tenant_id(owner), sink, KEYS.writer_key) for owner in (ANNA, BEN))
    for sealer in (anna, ben):
        sealer.store()
        sealer.store()
    assert len(sink.contents()) == 2
    body = anna.seal(Compressor().body(b"content"), head)
    opener = TenantOpener(sink, KEYS)
    assert opener.content_of(body, head) == b"content"
    other = ben.seal(Compressor().body(b"content"), head)
    for changed in (body[:1] + other[1:25] + body[25:], _flip(body), body[:30]):
        with pytest.raises(TamperedError):
            opener.content_of(changed, head)
    with pytest.raises(IntegrityError):
        opener.content_of(body[:20], head)
