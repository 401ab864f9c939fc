"""Snapshot directories: what the reader refuses, and a writer that is interrupted anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup.errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    OperationCancelledError,
    SinkFullError,
    SinkPermissionError,
    TruncatedError,
)
from knowtation_backup.model.canisters import (
    GlobalKind,
    GlobalValue,
    SectionName,
    Slice,
    SnapshotMetadata,
    SnapshotPart,
    StoredChunk,
)
from knowtation_backup.snapshots.directory import NewSnapshotDirectory, SnapshotDirectory
from knowtation_backup.snapshots.metadata import metadata_json

MODULE = b"\0asm" + bytes(range(256)) * 11
RANDOM = random.Random(1)  # noqa: S311 - only to differ everywhere
HEAP = RANDOM.randbytes(65536 * 70)
STABLE = RANDOM.randbytes(65536)
CHUNKS = (b"first chunk", b"second chunk")
STORED = tuple(StoredChunk(hashlib.sha256(chunk).digest()) for chunk in CHUNKS)
METADATA = SnapshotMetadata(
    wasm_module_size=len(MODULE),
    wasm_memory_size=len(HEAP),
    stable_memory_size=len(STABLE),
    globals=(GlobalValue(GlobalKind.I32, 7),),
    wasm_chunk_store=tuple(part.sha256 for part in STORED),
    source="taken_from_canister",
)
SECTIONS = {SectionName.WASM_MODULE: MODULE, SectionName.WASM_MEMORY: HEAP, SectionName.STABLE_MEMORY: STABLE}
PARTS = tuple(METADATA.parts())


def data_of(part: SnapshotPart) -> bytes:
    if isinstance(part, StoredChunk):
        return CHUNKS[STORED.index(part)]
    return SECTIONS[part.section][part.offset : part.offset + part.size_bytes]


def fill(directory: NewSnapshotDirectory) -> None:
    for part in list(directory.missing()):
        directory.write(part, data_of(part), evidence=b"seen")


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with NewSnapshotDirectory(tmp_path / "snapshot", METADATA) as directory:
        fill(directory)
        return directory.publish()


# -- reading ----------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read(written: Path) -> None:
    with SnapshotDirectory.open(written) as directory:
        assert directory.metadata == METADATA
        assert directory.metadata_bytes == metadata_json(METADATA)
        assert [directory.read(part) for part in PARTS] == [data_of(part) for part in PARTS]
        for part in PARTS:
            if isinstance(part, Slice):
                room = bytearray(part.size_bytes)
                directory.read_into(part, memoryview(room))
                assert room == data_of(part)
        assert directory.digests() == {name: hashlib.sha256(data).hexdigest() for name, data in SECTIONS.items()}


def test_metadata_is_kept_as_somebody_wrote_it(tmp_path: Path) -> None:
    foreign = json.dumps(json.loads(metadata_json(METADATA)) | {"newer": 1}).encode() + b"\n"
    with NewSnapshotDirectory(tmp_path / "s", METADATA, metadata_bytes=foreign) as new:
        fill(new)
        path = new.publish()
    with SnapshotDirectory.open(path) as directory:
        assert directory.metadata_bytes == foreign
        assert directory.metadata == METADATA


def test_directories_of_dfx_and_icp_are_read(tmp_path: Path, written: Path) -> None:
    """dfx leaves out what is empty; icp leaves a lock behind; both leave their upload progress."""
    small = attrs.evolve(METADATA, stable_memory_size=0, wasm_chunk_store=())
    dfx = tmp_path / "dfx"
    dfx.mkdir()
    (dfx / "metadata.json").write_bytes(metadata_json(small))
    (dfx / "wasm_module.bin").write_bytes(MODULE)
    (dfx / "wasm_memory.bin").write_bytes(HEAP)
    (dfx / "00ff.json").write_text("{}")
    with SnapshotDirectory.open(dfx) as directory:
        assert directory.digests()[SectionName.STABLE_MEMORY] == hashlib.sha256(b"").hexdigest()
    (dfx / "stable_memory.bin").touch()
    (dfx / "wasm_chunk_store").mkdir()
    (dfx / ".lock").touch()
    (dfx / ".upload_progress.json").write_text("{}")
    assert SnapshotDirectory.findings(dfx) == ()
    (written / "NOTES.txt").write_text("of no concern")
    assert SnapshotDirectory.findings(written) == ()


def test_a_compressed_module_is_one(tmp_path: Path) -> None:
    with NewSnapshotDirectory(
        tmp_path / "s", SnapshotMetadata(wasm_module_size=4, wasm_memory_size=0, stable_memory_size=0)
    ) as new:
        new.write(Slice(SectionName.WASM_MODULE, 0, 4), b"\x1f\x8b\x08\0")
        SnapshotDirectory.open(new.publish()).close()
    assert set(tree(tmp_path / "s")) == {"metadata.json", "wasm_module.bin", "stable_memory.bin"}


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _flip_first(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def _to_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def _to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHUNK = f"wasm_chunk_store/{STORED[0].sha256.hex()}.bin"


@pytest.mark.parametrize(
    ("name", "damage", "kind"),
    [
        ("metadata.json", Path.unlink, "snapshot_file_missing"),
        ("metadata.json", _truncate, "snapshot_metadata"),
        ("metadata.json", _to_link, "snapshot_not_a_file"),
        ("metadata.json", _to_pipe, "snapshot_not_a_file"),
        ("wasm_module.bin", Path.unlink, "snapshot_file_missing"),
        ("wasm_module.bin", _truncate, "snapshot_file_size"),
        ("wasm_module.bin", _flip_first, "snapshot_not_wasm"),
        ("wasm_memory.bin", Path.unlink, "snapshot_file_missing"),
        ("wasm_memory.bin", _append, "snapshot_file_size"),
        ("wasm_memory.bin", _to_link, "snapshot_not_a_file"),
        ("wasm_memory.bin", _to_directory, "snapshot_not_a_file"),
        ("stable_memory.bin", _truncate, "snapshot_file_size"),
        ("stable_memory.bin", _to_pipe, "snapshot_not_a_file"),
        (CHUNK, Path.unlink, "snapshot_file_missing"),
        (CHUNK, _flip_first, "snapshot_chunk_hash"),
        (CHUNK, _append, "snapshot_chunk_hash"),
        (CHUNK, lambda path: path.write_bytes(bytes((1 << 20) + 1)), "snapshot_file_size"),
        (CHUNK, _to_link, "snapshot_not_a_file"),
        ("wasm_chunk_store", _to_link, "snapshot_not_a_file"),
    ],
)
def test_damage_is_found_and_named(written: Path, name: str, damage: Callable[[Path], object], kind: str) -> None:
    damage(written / name)
    with pytest.raises(IntegrityError, match="is not whole") as caught:
        SnapshotDirectory.open(written)
    assert caught.value.kind == kind
    assert kind in {finding.code for finding in SnapshotDirectory.findings(written)}
    assert name in caught.value.context["findings"][0]


def test_all_damage_is_reported_at_once(written: Path) -> None:
    (written / "wasm_memory.bin").unlink()
    _truncate(written / "stable_memory.bin")
    (written / "wasm_chunk_store" / f"{'0' * 64}.bin").touch()
    findings = SnapshotDirectory.findings(written)
    assert [finding.code for finding in findings] == [
        "snapshot_file_missing",
        "snapshot_file_size",
        "snapshot_chunk_surplus",
    ]


def test_an_unfinished_download_is_refused(written: Path, tmp_path: Path) -> None:
    """Files of an interrupted icp have their full length."""
    (written / ".download_progress.json").write_text("{}")
    with pytest.raises(IntegrityError, match="not finished") as caught:
        SnapshotDirectory.open(written)
    assert caught.value.kind == "snapshot_unfinished"
    with NewSnapshotDirectory(tmp_path / "ours", METADATA) as directory:
        partial = directory.partial_path
    with pytest.raises(IntegrityError, match="not finished"):
        SnapshotDirectory.open(partial)


def test_no_directory_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(BlobNotFoundError):
        SnapshotDirectory.open(tmp_path / "nothing")


def test_a_file_that_shrinks_while_it_is_read_is_noticed(written: Path) -> None:
    with SnapshotDirectory.open(written) as directory:
        os.truncate(written / "wasm_memory.bin", 10)
        _flip_first(written / CHUNK)
        with pytest.raises(TruncatedError):
            directory.read(Slice(SectionName.WASM_MEMORY, 0, 100))
        with pytest.raises(TruncatedError):
            directory.read_into(Slice(SectionName.WASM_MEMORY, 0, 100), memoryview(bytearray(100)))
        with pytest.raises(TruncatedError):
            directory.digests()
        with pytest.raises(IntegrityError):
            directory.read(STORED[0])


def test_digests_can_be_cancelled(written: Path) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with SnapshotDirectory.open(written) as directory, pytest.raises(OperationCancelledError):
        directory.digests(cancellation=cancellation)


def test_no_descriptor_is_left_open(written: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only

    before = count()
    SnapshotDirectory.open(written).close()
    _truncate(written / "wasm_module.bin")
    with pytest.raises(IntegrityError):
        SnapshotDirectory.open(written)
    (written / "metadata.json").unlink()
    with pytest.raises(IntegrityError):
        SnapshotDirectory.open(written)
    with NewSnapshotDirectory(written.with_name("other"), METADATA) as directory:
        fill(directory)
        directory.publish()
    with pytest.raises(BlobExistsError):
        NewSnapshotDirectory(written, METADATA)
    assert count() == before


# -- writing ----------------------------------------------------------------------------------------------------------


def test_files_and_directories_are_private(written: Path) -> None:
    for path in (written, *written.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert os.listdir(written.parent) == ["snapshot"]  # noqa: PTH208 - names only


def test_threads_write_in_any_order(tmp_path: Path, written: Path) -> None:
    parts = list(PARTS)
    RANDOM.shuffle(parts)
    with NewSnapshotDirectory(tmp_path / "threads", METADATA) as directory, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: directory.write(part, memoryview(data_of(part))), parts))
        assert directory.done == set(PARTS)
        path = directory.publish()
    assert tree(path) == tree(written)


def test_nothing_is_published_before_everything_is_there(tmp_path: Path) -> None:
    with NewSnapshotDirectory(tmp_path / "s", METADATA) as directory:
        directory.write(PARTS[0], data_of(PARTS[0]))
        with pytest.raises(IntegrityError) as caught:
            directory.publish()
    assert caught.value.kind == "snapshot_incomplete"
    assert not (tmp_path / "s").exists()


def test_an_interrupted_writer_goes_on_where_it_was(tmp_path: Path, written: Path) -> None:
    with NewSnapshotDirectory(tmp_path / "s", METADATA, origin=b"a") as directory:
        for part in PARTS[1:3]:
            directory.write(part, data_of(part), evidence=b"proof of " + str(part).encode())
    with NewSnapshotDirectory(tmp_path / "s", METADATA, origin=b"a") as directory:
        assert directory.done == set(PARTS[1:3])
        assert {record.part: record.evidence for record in directory.records()} == {
            part: b"proof of " + str(part).encode() for part in PARTS[1:3]
        }
        fill(directory)
        assert len(list(directory.records())) == len(PARTS)
        path = directory.publish()
    assert tree(path) == tree(written)


def test_what_a_power_cut_took_away_is_written_again(tmp_path: Path, written: Path) -> None:
    """Records may reach the disk before the bytes they speak of; and the last record may be cut off."""
    with NewSnapshotDirectory(tmp_path / "s", METADATA) as directory:
        fill(directory)
        partial = directory.partial_path
    heap = partial / "data" / "wasm_memory.bin"
    heap.write_bytes(bytes(len(HEAP)))
    (partial / "data" / CHUNK).unlink()
    with (partial / "progress").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 1)
    with NewSnapshotDirectory(tmp_path / "s", METADATA) as directory:
        heap_parts = {part for part in PARTS if isinstance(part, Slice) and part.section is SectionName.WASM_MEMORY}
        assert directory.done == set(PARTS) - heap_parts - set(STORED)
        fill(directory)
        assert len(list(directory.records())) == len(PARTS)
        path = directory.publish()
    assert tree(path) == tree(written)


def test_every_cut_and_every_flipped_byte_of_the_progress_is_survived(tmp_path: Path) -> None:
    small = SnapshotMetadata(wasm_module_size=8, wasm_memory_size=0, stable_memory_size=0)
    part = Slice(SectionName.WASM_MODULE, 0, 8)
    with NewSnapshotDirectory(tmp_path / "s", small) as directory:
        directory.write(part, b"\0asm1234", evidence=b"e")
        progress = directory.partial_path / "progress"
        data = directory.partial_path / "data" / "wasm_module.bin"
    whole = progress.read_bytes()
    for place in range(len(whole)):
        progress.write_bytes(whole[:place])
        with NewSnapshotDirectory(tmp_path / "s", small) as directory:
            assert directory.done == set()
        data.write_bytes(b"\0asm1234")
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        progress.write_bytes(damaged)
        if place < 40:
            with pytest.raises(ConfigurationError, match="part of another snapshot"):
                NewSnapshotDirectory(tmp_path / "s", small)
            continue
        with NewSnapshotDirectory(tmp_path / "s", small) as directory:
            assert directory.done == set()
    progress.write_bytes(whole)
    with NewSnapshotDirectory(tmp_path / "s", small) as directory:
        assert directory.done == {part}


def test_recorded_parts_can_be_judged_by_their_evidence(tmp_path: Path) -> None:
    def check(part: SnapshotPart, data: bytes, evidence: bytes) -> bool:
        return part != PARTS[2] and evidence == b"seen" and data == data_of(part)

    with NewSnapshotDirectory(tmp_path / "s", METADATA, check=check) as directory:
        fill(directory)
    with NewSnapshotDirectory(tmp_path / "s", METADATA, check=check) as directory:
        assert list(directory.missing()) == [PARTS[2]]


def test_another_snapshot_is_not_mixed_in(tmp_path: Path) -> None:
    with NewSnapshotDirectory(tmp_path / "s", METADATA, origin=b"a") as directory:
        directory.write(PARTS[0], data_of(PARTS[0]))
    with pytest.raises(ConfigurationError) as caught:
        NewSnapshotDirectory(tmp_path / "s", METADATA, origin=b"b")
    assert caught.value.kind == "other_snapshot"
    with pytest.raises(ConfigurationError):
        NewSnapshotDirectory(tmp_path / "s", attrs.evolve(METADATA, canister_version=1), origin=b"a")
    with NewSnapshotDirectory(tmp_path / "s", METADATA, origin=b"b", restart=True) as directory:
        assert directory.done == set()


@pytest.mark.parametrize("restart", [True, False])
def test_nothing_of_another_snapshot_is_published(tmp_path: Path, *, restart: bool) -> None:
    with NewSnapshotDirectory(tmp_path / "s", METADATA) as directory:
        fill(directory)
        directory.add_file("provenance.cbor", [b"of another"])
        if not restart:
            (directory.partial_path / "progress").unlink()
    other = attrs.evolve(METADATA, wasm_memory_size=0, wasm_chunk_store=())
    with NewSnapshotDirectory(tmp_path / "s", other, restart=restart) as directory:
        fill(directory)
        path = directory.publish()
    assert set(tree(path)) == {"metadata.json", "wasm_module.bin", "stable_memory.bin"}
    assert SnapshotDirectory.findings(path) == ()


def test_two_do_not_write_to_one_place(tmp_path: Path) -> None:
    with NewSnapshotDirectory(tmp_path / "s", METADATA), pytest.raises(ConfigurationError) as caught:
        NewSnapshotDirectory(tmp_path / "s", METADATA)
    assert caught.value.kind == "snapshot_directory_busy"


def test_nothing_is_overwritten(tmp_path: Path, written: Path) -> None:
    with pytest.raises(BlobExistsError):
        NewSnapshotDirectory(written, METADATA)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(BlobExistsError):
        NewSnapshotDirectory(file, METADATA)
    empty = tmp_path / "empty"
    empty.mkdir()
    with NewSnapshotDirectory(empty, METADATA) as directory:
        fill(directory)
        (empty / "late").write_text("came while it was written")
        with pytest.raises(BlobExistsError):
            directory.publish()
        (empty / "late").unlink()
        directory.publish()
    assert tree(empty) == tree(written)


def test_what_a_kill_after_publishing_leaves_is_tidied_up(tmp_path: Path, written: Path) -> None:
    leftover = tmp_path / "snapshot.partial"
    leftover.mkdir()
    (leftover / "progress").touch()
    with pytest.raises(BlobExistsError):
        NewSnapshotDirectory(written, METADATA)
    assert not leftover.exists()


def test_an_abandoned_attempt_leaves_nothing(tmp_path: Path) -> None:
    directory = NewSnapshotDirectory(tmp_path / "s", METADATA)
    directory.write(PARTS[0], data_of(PARTS[0]))
    directory.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "data"),
    [
        (PARTS[0], MODULE[1:]),
        (Slice(SectionName.STABLE_MEMORY, 1, len(STABLE)), STABLE),
        (STORED[0], b"something else"),
        (StoredChunk(hashlib.sha256(b"unknown").digest()), b"unknown"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, part: SnapshotPart, data: bytes) -> None:
    with NewSnapshotDirectory(tmp_path / "s", METADATA) as directory:
        with pytest.raises(IntegrityError):
            directory.write(part, data)
        assert directory.done == set()


def test_further_files_come_along(tmp_path: Path) -> None:
    with NewSnapshotDirectory(tmp_path / "s", METADATA) as directory:
        fill(directory)
        directory.add_file("provenance.cbor", [b"one", b"two"])
        for name in ("", "..", "a/b", "wasm_memory.bin", "wasm_chunk_store"):
            with pytest.raises(ConfigurationError):
                directory.add_file(name, [])
        path = directory.publish()
    assert (path / "provenance.cbor").read_bytes() == b"onetwo"
    assert SnapshotDirectory.findings(path) == ()


def test_a_disk_that_is_too_small_is_noticed_first(tmp_path: Path) -> None:
    huge = attrs.evolve(METADATA, stable_memory_size=1 << 60)
    with pytest.raises(SinkFullError) as caught:
        NewSnapshotDirectory(tmp_path / "s", huge)
    assert caught.value.context["needed_bytes"] > caught.value.context["free_bytes"]


def test_a_disk_that_fills_up_is_named_and_work_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Path
) -> None:
    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    with NewSnapshotDirectory(tmp_path / "s", METADATA) as directory:
        directory.write(PARTS[0], data_of(PARTS[0]))
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            with pytest.raises(SinkFullError):
                directory.write(PARTS[1], data_of(PARTS[1]))
    with NewSnapshotDirectory(tmp_path / "s", METADATA) as directory:
        assert directory.done == {PARTS[0]}
        fill(directory)
        assert tree(directory.publish()) == tree(written)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_place_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SinkPermissionError):
            NewSnapshotDirectory(tmp_path / "s", METADATA)
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def child() -> Callable[[Path, int], int]:
    """Runs a process that writes parts and is killed when so many of them are written."""
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from test_directory import METADATA, data_of
        from knowtation_backup.snapshots.directory import NewSnapshotDirectory

        left = int(sys.argv[2])
        with NewSnapshotDirectory(Path(sys.argv[1]), METADATA) as directory:
            for part in list(directory.missing()):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                directory.write(part, data_of(part))
                left -= 1
            directory.publish()
        """
    )

    def run(path: Path, parts: int) -> int:
        here = str(Path(__file__).parent)
        command = [sys.executable, "-c", program, str(path), str(parts)]
        environment = {**os.environ, "PYTHONPATH": here}
        return subprocess.run(command, check=False, timeout=60, env=environment).returncode  # noqa: S603 - ourselves

    return run


def test_a_killed_process_loses_nothing(tmp_path: Path, written: Path, child: Callable[[Path, int], int]) -> None:
    path = tmp_path / "s"
    for _ in range(2):
        assert child(path, 2) < 0
        assert not path.exists()
    with NewSnapshotDirectory(path, METADATA) as directory:
        assert len(directory.done) == 4
    assert child(path, 100) == 0
    assert tree(path) == tree(written)
