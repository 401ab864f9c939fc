"""Snapshot directories as sections, whoever wrote them: all files, byte for byte, and only of whole directories."""

import datetime as dt
import hashlib
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from knowtation_backup.contracts import SectionCapture, SectionSource
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    DigestMismatchError,
    IntegrityError,
    InternalError,
)
from knowtation_backup.model.canisters import GlobalKind, GlobalValue, SnapshotMetadata
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.model.sections import FileSection, ImageSection, RecordSection
from knowtation_backup.snapshots.directory_source import SnapshotDirectorySource
from knowtation_backup.snapshots.metadata import metadata_json
from knowtation_backup.snapshots.provenance_records import ProvenanceHead, Recorder

NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
CANISTER = "rrkah-fqaaa-aaaaa-aaaaq-cai"
OTHER = "ryjl3-tyaaa-aaaaa-aaaba-cai"
MODULE = b"\x1f\x8b\x08" + bytes(range(256)) * 4
HEAP = bytes(range(256)) * 256 * 3
CHUNKS = {hashlib.sha256(chunk).digest(): chunk for chunk in (b"first chunk", b"second chunk")}
METADATA = SnapshotMetadata(
    taken_at_ns=1_780_000_000_123_456_789,
    wasm_module_size=len(MODULE),
    wasm_memory_size=len(HEAP),
    stable_memory_size=0,
    globals=(GlobalValue(GlobalKind.I32, 7),),
    wasm_chunk_store=tuple(CHUNKS),
    source="taken_from_canister",
)


def evidence_of(canister_id: str) -> bytes:
    canister = Principal.parse(canister_id)
    return Recorder(ProvenanceHead(canister_id=canister, snapshot_id=SnapshotId(bytes(8) + canister.raw))).head()


def write(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def files_of(metadata: SnapshotMetadata = METADATA) -> dict[str, bytes]:
    """Return what every tool writes."""
    return {
        "metadata.json": metadata_json(metadata),
        "wasm_module.bin": MODULE,
        "wasm_memory.bin": HEAP,
        **{f"wasm_chunk_store/{sha256.hex()}.bin": chunk for sha256, chunk in CHUNKS.items()},
    }


def of_icp() -> dict[str, bytes]:
    """Return what ``icp`` writes: a file for an empty stable memory, too."""
    return {**files_of(), "stable_memory.bin": b""}


def of_dfx() -> dict[str, bytes]:
    """Return what ``dfx`` writes: no file for an empty stable memory, and JSON in a form of its own."""
    return {**files_of(), "metadata.json": metadata_json(METADATA).replace(b": ", b":   ") + b"\n\n"}


def of_ours() -> dict[str, bytes]:
    files = of_icp()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    return {**files, "facts.json": b"{}\n", "SHA256SUMS": sums.encode(), "provenance.cbor": evidence_of(CANISTER)}


def captured(source: SnapshotDirectorySource) -> dict[str, bytes]:
    return read(source.capture_sections(taken_at=NOW))


def read(capture: SectionCapture) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for section in capture.sections():
        assert not isinstance(section, RecordSection)
        assert section.name not in found
        found[section.name] = b"".join(map(bytes, section.chunks))
        assert isinstance(section, ImageSection) is (section.name in {"wasm_memory.bin", "stable_memory.bin"})
        if isinstance(section, ImageSection):
            assert section.size_bytes == len(found[section.name])
    assert capture.result().complete
    return found


@pytest.mark.parametrize("tool", [of_icp, of_dfx, of_ours])
def test_every_file_comes_byte_for_byte(tmp_path: Path, tool: Callable[[], dict[str, bytes]]) -> None:
    path = write(tmp_path / "snapshot", tool())
    for check in (False, True):
        source = SnapshotDirectorySource(path=path, canister_id=CANISTER, check_digests=check)
        assert captured(source) == tool()
    assert isinstance(source, SectionSource)


def test_captures_say_what_they_are_of(tmp_path: Path) -> None:
    path = write(tmp_path / "snapshot", of_icp())
    capture = SnapshotDirectorySource(path=path, canister_id=CANISTER).capture_sections(taken_at=NOW)
    assert (capture.kind, capture.source_id) == ("canister-snapshot", CANISTER)
    assert capture.taken_at == dt.datetime.fromtimestamp(1_780_000_000, dt.UTC).replace(microsecond=123456)
    with pytest.raises(InternalError):
        capture.result()
    names = [section.name for section in capture.sections() if isinstance(section, FileSection | ImageSection)]
    assert names[:4] == ["metadata.json", "wasm_module.bin", "wasm_memory.bin", "stable_memory.bin"]
    assert dict(capture.result().counts) == {"snapshot_bytes": METADATA.size_bytes}


def test_a_snapshot_without_a_moment_is_of_now(tmp_path: Path) -> None:
    metadata = attrs.evolve(METADATA, taken_at_ns=0)
    path = write(tmp_path / "snapshot", {**of_icp(), "metadata.json": metadata_json(metadata)})
    assert SnapshotDirectorySource(path=path, canister_id=CANISTER).capture_sections(taken_at=NOW).taken_at == NOW


def test_our_own_directories_say_whose_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "snapshot", of_ours())
    assert SnapshotDirectorySource(path=path).capture_sections(taken_at=NOW).source_id == CANISTER
    with pytest.raises(IntegrityError) as caught:
        SnapshotDirectorySource(path=path, canister_id=OTHER).capture_sections(taken_at=NOW)
    assert caught.value.kind == "provenance_mismatch"
    # Records behind the head are not looked at here: there may be gigabytes of them.
    write(path, {"provenance.cbor": evidence_of(CANISTER) + b"\xff" * 5000})
    assert captured(SnapshotDirectorySource(path=path))["provenance.cbor"].endswith(b"\xff" * 5000)


@pytest.mark.parametrize("damaged", [b"", b"\xff", evidence_of(CANISTER)[:-1], b"\xa0", b"\x81" * 5000, b"[1]" * 9999])
def test_evidence_that_cannot_be_read_is_not_passed_over(tmp_path: Path, damaged: bytes) -> None:
    path = write(tmp_path / "snapshot", {**of_ours(), "provenance.cbor": damaged})
    for canister_id in (None, CANISTER):
        with pytest.raises(IntegrityError) as caught:
            SnapshotDirectorySource(path=path, canister_id=canister_id).capture_sections(taken_at=NOW)
        assert caught.value.kind == "provenance_malformed"


def test_directories_of_other_tools_do_not_say_whose_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "snapshot", of_dfx())
    with pytest.raises(ConfigurationError) as caught:
        SnapshotDirectorySource(path=path).capture_sections(taken_at=NOW)
    assert caught.value.kind == "canister_not_named"


def test_only_whole_directories_are_taken(tmp_path: Path) -> None:
    chunk = next(name for name in of_icp() if name.startswith("wasm_chunk_store/"))
    damages: dict[str, dict[str, bytes]] = {
        "snapshot_unfinished": {".download_progress.json": b"{}"},
        "snapshot_file_size": {"wasm_memory.bin": HEAP[:-1]},
        "snapshot_chunk_hash": {chunk: b"other"},
        "snapshot_not_wasm": {"wasm_module.bin": bytes(len(MODULE))},
    }
    for kind, changed in damages.items():
        path = write(tmp_path / kind, {**of_icp(), **changed})
        with pytest.raises(IntegrityError) as caught:
            SnapshotDirectorySource(path=path, canister_id=CANISTER).capture_sections(taken_at=NOW)
        assert caught.value.kind == kind
    with pytest.raises(BlobNotFoundError):
        SnapshotDirectorySource(path=tmp_path / "none", canister_id=CANISTER).capture_sections(taken_at=NOW)


def test_sums_are_compared_when_asked_for(tmp_path: Path) -> None:
    changed = b"\1" + HEAP[1:]
    path = write(tmp_path / "snapshot", {**of_ours(), "wasm_memory.bin": changed})
    assert captured(SnapshotDirectorySource(path=path))["wasm_memory.bin"] == changed
    with pytest.raises(DigestMismatchError) as caught:
        SnapshotDirectorySource(path=path, check_digests=True).capture_sections(taken_at=NOW)
    assert caught.value.kind == "snapshot_file_digest"


def test_a_directory_that_changes_on_the_way_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "snapshot", of_icp())
    capture = SnapshotDirectorySource(path=path, canister_id=CANISTER).capture_sections(taken_at=NOW)
    (path / "wasm_memory.bin").write_bytes(HEAP[:-1])
    with pytest.raises(IntegrityError):
        read(capture)
