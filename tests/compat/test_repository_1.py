"""
The repository that format 1 was released with reads, verifies and can be continued: for ever.

``make_repository.py`` wrote it; it is not written again once the format is released.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from compat_repository import PLACE, digests, sources
from repository_stage import StagedSource, contents

from knowtation_backup.codecs.keys import EncryptionKey, KeyKind, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb2 import OpeningKey
from knowtation_backup.errors import ConfigurationError, ErasedTenantError
from knowtation_backup.model.manifest import check_tags
from knowtation_backup.model.reports import Coverage, VerifyLevel
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.catalog import standings
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.keys import WriterKey
from knowtation_backup.repository.manifest import FileTable, ImageTables, RecordTables
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink

EXPECTED: dict[str, Any] = json.loads((PLACE / "expected.json").read_text())
KEYS = EXPECTED["keys"]
RECIPIENTS: dict[str, OpeningKey] = {
    "raw": EncryptionKey(raw=bytes.fromhex(KEYS["raw"])),
    "x25519": PrivateKey(kind=KeyKind.X25519, raw=bytes.fromhex(KEYS["x25519"])),
    "passphrase": Passphrase(text=KEYS["passphrase"]),
}


def stored(permissions: str = "lr") -> MemorySink:
    writable = MemorySink()
    root = PLACE / "store"
    for path in sorted(root.rglob("*")):
        if path.is_file():
            writable.put(path.relative_to(root).as_posix(), [path.read_bytes()])
    sink = MemorySink(permissions=permissions)
    sink._blobs = writable._blobs
    return sink


def opened(permissions: str = "lr", recipient: str = "raw") -> Repository:
    return Repository.open(stored(permissions), RECIPIENTS[recipient])


@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_every_recipient_opens_it(recipient: str) -> None:
    assert opened(recipient=recipient).archive_ids() == sorted(EXPECTED["archives"])


def test_it_is_small_and_has_everything_the_format_has() -> None:
    files = [path for path in PLACE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 500_000
    repository = opened()
    assert repository.config.tenant_keys
    assert sorted(repository.read_keys.private_keys) == [1, 2]
    manifests = [repository.manifest(archive_id) for archive_id in repository.archive_ids()]
    assert max(len(s.tables) for m in manifests for t in m.sections for s in getattr(t, "segments", ())) > 1
    assert {section.kind.value for manifest in manifests for section in manifest.sections} == {
        "image",
        "records",
        "file",
    }
    assert any(not manifest.complete for manifest in manifests)
    assert {manifest.parent == "" for manifest in manifests} == {True, False}
    kinds = {Path(key).parts[0] for key in stored().contents()}
    assert kinds == {"repository.json", "keys", "packs", "indexes", "archives", "tenants", "side"}


def test_every_section_is_what_it_was() -> None:
    repository = opened()
    for archive_id, expected in EXPECTED["archives"].items():
        manifest = repository.manifest(archive_id)
        reader = ArchiveReader(repository.sink, repository.read_keys, manifest)
        with_records = [s for s in manifest.sections if isinstance(s, RecordTables)]
        for section in with_records:
            with pytest.raises(ErasedTenantError):
                list(reader.records(section))
        erased: list[int] = []

        def note(_owner_key: bytes, count: int, erased: list[int] = erased) -> None:
            erased.append(count)

        read = {
            section.name: {record.value for group in reader.records(section, on_erased=note) for record in group}
            for section in with_records
        }
        assert bool(erased) == bool(with_records)
        plain = _without_records(repository, archive_id)
        assert digests(plain) == {name: digest for name, digest in expected.items() if name not in read}
        for name, values in read.items():
            gone = EXPECTED["erased_tenant"].encode()
            source = next(one for one in sources() if one.taken_at == manifest.taken_at)
            left = {value for (owner, _), value in source.records[name].items() if owner != gone}
            assert values == left


def _without_records(repository: Repository, archive_id: str) -> dict[str, bytes | set[bytes]]:
    manifest = repository.manifest(archive_id)
    reader = ArchiveReader(repository.sink, repository.read_keys, manifest)
    found: dict[str, bytes | set[bytes]] = {}
    for section in manifest.sections:
        match section:
            case ImageTables():
                parts = (
                    part.data if part.data is not None else bytes(part.size_bytes) for part in reader.image(section)
                )
                found[section.name] = b"".join(parts)
            case FileTable():
                found[section.name] = b"".join(reader.file(section))
            case RecordTables():
                pass
    return found


def test_contents_are_those_the_generator_makes() -> None:
    for source in sources():
        archive_id = next(one for one in EXPECTED["archives"] if one.startswith(f"{source.taken_at:%Y%m%dT%H%M%SZ}"))
        expected = EXPECTED["archives"][archive_id]
        values: dict[str, bytes | set[bytes]] = {**source.images, **source.files}
        assert {name: expected[name] for name in values} == digests(values)


def test_it_verifies() -> None:
    report = verify_all(opened(), record=False)
    assert report.ok
    assert report.covered is Coverage.WHOLE
    assert report.erased_records > 0


def test_a_writer_key_of_that_time_lists_and_verifies() -> None:
    closed = Repository.open(stored(), WriterKey.from_text(KEYS["writer"]))
    assert verify_all(closed, record=False).covered is Coverage.STORED
    assert verify_all(closed, level=VerifyLevel.STRUCTURE, record=False).ok
    with pytest.raises(ConfigurationError):
        _ = closed.read_keys


def test_what_was_noted_still_holds() -> None:
    noted = standings(opened())
    first, second, *_ = sorted(EXPECTED["archives"])
    assert noted[first].pinned
    assert noted[first].verified_at is not None
    assert noted[second].tags == check_tags(("kept",))


def test_its_history_goes_on() -> None:
    repository = opened("lrw")
    before = repository.archive_ids()
    last = sources()[-1]
    changed = last.images["wasm_memory.bin"][:-4096] + b"!" * 4096
    source = StagedSource(
        images={**last.images, "wasm_memory.bin": changed},
        files=last.files,
        records={"notes": {(b"tenant-3", b"new"): b"after it was erased"}},
        taken_at=last.taken_at.replace(year=2027),
    )
    report = back_up(repository, source)
    assert report.manifest.parent in before
    assert {section.name: section.stored for section in report.sections}["wasm_memory.bin"] == 1
    read = contents(repository, report.archive_id)
    assert read["wasm_memory.bin"] == changed
    assert read["notes"] == {b"after it was erased"}
    assert verify_all(repository, record=False).ok
