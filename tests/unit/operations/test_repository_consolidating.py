"""Consolidating: a full archive from a stored one, so that old packs can go."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator

import attrs
import pytest
from repository_stage import MOMENT, Aged, StagedSource, contents, new_repository

from knowtation_backup.codecs.signing import SigningKey
from knowtation_backup.contracts import utc_now
from knowtation_backup.errors import BlobNotFoundError, ConfigurationError, IntegrityError, TamperedError
from knowtation_backup.model.reports import Outcome
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.model.signatures import SignaturePolicy
from knowtation_backup.operations.repository import consolidating
from knowtation_backup.operations.repository.archive_source import ArchiveCapture
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.catalog import find, list_archives
from knowtation_backup.operations.repository.consolidating import ConsolidationReport, consolidate
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_empty_trash, plan_forget
from knowtation_backup.operations.repository.marks import pin, tag, untag
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.operations.repository.verifying import verify, verify_all
from knowtation_backup.repository import packing
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.manifest import ArchiveManifest
from knowtation_backup.repository.repository import Repository
from knowtation_backup.retention.policy import KeepPolicy
from knowtation_backup.sinks.memory import MemorySink

DAY = dt.timedelta(days=1)
LATER = MOMENT + 30 * DAY


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACK_BYTES", 32 << 10)


def identify(_section: str, value: bytes) -> list[tuple[bytes, bytes]]:
    owner, name, _ = json.loads(value)
    return [(owner.encode(), name.encode())]


def source(day: int) -> StagedSource:
    pages = [bytes([n + 1, day if n % 5 == day % 5 else 0]) * (PAGE_BYTES // 2) for n in range(60)]
    values = {
        (owner, name): json.dumps([owner.decode(), name.decode(), day if name == b"a" else 0]).encode()
        for owner in (b"ann", b"ben")
        for name in (b"a", b"b", b"c%d" % day)
    }
    return StagedSource(
        images={"heap.bin": b"".join(pages) + bytes(3 * PAGE_BYTES) + b"end"},
        files={"module.wasm": pages[1] * 3},
        records={"notes": values},
        taken_at=MOMENT + day * DAY,
        details={"day": day},
    )


def filled(days: int = 3, *, tenant_keys: bool = False) -> Repository:
    repository = new_repository(MemorySink(permissions="lrwd"), tenant_keys=tenant_keys)
    for day in range(days):
        options = RepositoryBackupOptions(tags=("nightly",), set_id=f"set-{day}")
        back_up(repository, source(day), options=options, clock=lambda day=day: MOMENT + day * DAY)  # type: ignore[misc]
    return repository


def consolidated(repository: Repository, archive_id: str) -> ConsolidationReport:
    return consolidate(repository, archive_id, identify=identify, clock=lambda: LATER)


def test_it_has_the_same_content_and_needs_nothing_of_older_archives() -> None:
    repository = filled()
    old = repository.archive_ids()[2]
    tag(repository, old, "kept")
    untag(repository, old, "nightly")
    before = repository.manifest(old)
    report = consolidated(repository, old)
    made = repository.manifest(report.archive_id)
    assert report.ok
    assert report.outcome is Outcome.OK
    assert report.exit_code == 0
    assert old in str(report)
    assert (made.consolidated_from, made.parent) == (old, "")
    assert (made.taken_at, made.kind, made.source_id) == (before.taken_at, before.kind, before.source_id)
    assert (made.counts, made.complete, made.set_id) == (before.counts, before.complete, before.set_id)
    assert made.tags == ("kept",)
    assert made.finished_at == LATER
    assert {**contents(repository, report.archive_id)} == {**contents(repository, old)}
    others = {
        key
        for one in repository.archive_ids()
        if one != report.archive_id
        for key, _ in repository.manifest(one).objects()
    }
    assert not others & {key for key, _ in made.objects()}


def test_old_packs_can_go() -> None:
    repository = filled()
    verify_all(repository, clock=lambda: LATER)
    old = repository.archive_ids()[2]
    packs = {key for key, _ in repository.manifest(old).objects()}
    made = consolidated(repository, old).archive_id
    assert {info.archive_id: info.superseded_by for info in list_archives(repository)}[old] == made

    policy = KeepPolicy(last=1, min_keep=1)
    apply_forget(repository, plan_forget(repository, policy, now=LATER), clock=lambda: LATER)
    assert find(repository).archive_id == made
    aged = attrs.evolve(repository, sink=Aged(repository.sink, dt.timedelta(days=40)))
    apply_forget(aged, plan_empty_trash(aged, now=utc_now()))
    assert repository.archive_ids() == [made]
    apply_prune(aged, plan_prune(aged))
    apply_prune(aged, plan_prune(aged))
    assert not packs & {info.key for info in repository.sink.list("")}
    assert verify(repository, made).ok
    assert back_up(repository, source(3)).manifest.parent == made


def test_the_next_backup_is_compared_with_it_when_it_was_the_newest() -> None:
    for _ in range(4):  # ids are random, moments decide
        repository = filled(2)
        made = consolidated(repository, repository.archive_ids()[1]).archive_id
        assert find(repository).archive_id == made
        assert back_up(repository, source(2)).manifest.parent == made


def test_only_one_that_proved_good_takes_the_place_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = filled(1)
    (old,) = repository.archive_ids()
    monkeypatch.setattr(consolidating, "verify", lambda *args, **kwargs: verify(*args, **{**kwargs, "record": False}))
    consolidated(repository, old)
    assert not any(info.superseded_by for info in list_archives(repository))


def test_pins_stay_with_the_archive_that_has_them() -> None:
    repository = filled(1)
    (old,) = repository.archive_ids()
    pin(repository, old)
    made = consolidated(repository, old).archive_id
    assert {info.archive_id: info.standing.pinned for info in list_archives(repository)} == {old: True, made: False}


def test_what_differs_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = filled(2)
    old = repository.archive_ids()[1]
    genuine = ArchiveCapture.sections

    def other(change: str) -> None:
        def sections(capture: ArchiveCapture) -> Iterator[object]:
            changed = source(1)
            swapped = StagedSource(
                images={"heap.bin": changed.images["heap.bin"] + b"!"},
                files={"module.wasm": b"other"},
                records={"notes": {(b"ann", b"a"): b"x"}},
            )
            replaced = {section.name: section for section in swapped.sections()}
            for section in genuine(capture):
                yield replaced[change] if section.name == change else section

        monkeypatch.setattr(ArchiveCapture, "sections", sections)

    for change in ("heap.bin", "module.wasm", "notes"):
        other(change)
        with pytest.raises(IntegrityError, match=change) as caught:
            consolidated(repository, old)
        assert caught.value.kind == "roots_differ"
        assert len(repository.archive_ids()) == 2


def test_a_section_that_is_missing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = filled(1)
    genuine = ArchiveCapture.sections
    monkeypatch.setattr(ArchiveCapture, "sections", lambda capture: iter(list(genuine(capture))[1:]))
    with pytest.raises(IntegrityError, match=r"module\.wasm"):
        consolidated(repository, repository.archive_ids()[0])


def test_a_damaged_archive_is_not_consolidated() -> None:
    repository = filled(2)
    old = repository.archive_ids()[1]
    key = next(key for key, _ in repository.manifest(old).objects() if key.startswith("packs/"))
    assert isinstance(repository.sink, MemorySink)
    stored = repository.sink.contents()[key]
    repository.sink.delete(key)
    repository.sink.put(key, (stored[:-1] + bytes([stored[-1] ^ 1]),))
    with pytest.raises(TamperedError):
        consolidated(repository, old)
    assert len(repository.archive_ids()) == 2


def test_one_that_is_not_whole_when_read_back_is_put_into_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = filled(1)
    (old,) = repository.archive_ids()

    def spoilt(repository: Repository, archive_id: str, **options: object) -> object:
        key = next(key for key, _ in repository.manifest(archive_id).objects())
        repository.sink.delete(key)
        return verify(repository, archive_id, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(consolidating, "verify", spoilt)
    report = consolidated(repository, old)
    assert not report.ok
    assert report.outcome is Outcome.DIFFERENT
    assert {info.archive_id for info in list_archives(repository) if info.standing.quarantined} == {report.archive_id}
    assert find(repository).archive_id == old


def test_records_of_erased_tenants_are_left_out_and_the_rest_is_whole() -> None:
    repository = filled(2, tenant_keys=True)
    old = repository.archive_ids()[1]
    apply_erase_tenant(repository, plan_erase_tenant(repository, b"ann"))
    report = consolidated(repository, old)
    assert report.ok
    assert [warning.code for warning in report.backup.warnings] == ["records_erased"]
    manifest = repository.manifest(report.archive_id)
    reader = ArchiveReader(repository.sink, repository.read_keys, manifest)
    (tables,) = (section for section in manifest.sections if section.name == "notes")
    found = {json.loads(record.value)[0] for group in reader.records(tables) for record in group}  # type: ignore[arg-type]
    assert found == {"ben"}


def test_it_needs_read_keys_and_no_right_to_delete() -> None:
    repository = filled(1)
    (old,) = repository.archive_ids()
    closed = Repository.open_with(repository.sink, repository.writer_key)
    with pytest.raises(ConfigurationError, match="writer key"):
        consolidate(closed, old)
    with pytest.raises(BlobNotFoundError):
        consolidate(repository, f"20260301T120000Z-{'0' * 64}")


def test_it_is_signed_by_whoever_makes_it() -> None:
    key = SigningKey.generate()
    policy = SignaturePolicy(trusted=[key.verify_key])
    repository = attrs.evolve(new_repository(MemorySink()), signing_keys=key, signatures=policy)
    old = back_up(repository, source(0)).archive_id
    made = consolidated(repository, old).archive_id
    assert verify(repository, made).ok


def test_manifests_of_other_archives_say_nothing_of_it() -> None:
    repository = filled(1)
    (archive_id,) = repository.archive_ids()
    stored = repository.manifest(archive_id).to_bytes()
    assert b"consolidated_from" not in stored
    made = attrs.evolve(repository.manifest(archive_id), consolidated_from=archive_id)
    assert ArchiveManifest.from_bytes(made.to_bytes()) == made
