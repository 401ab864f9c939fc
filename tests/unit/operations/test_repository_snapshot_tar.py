"""Tar files of snapshots become whole archives, or none."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from repository_stage import contents, new_repository
from snapshot_files import snapshot_files, tar_of

from knowtation_backup.errors import BackupError, IntegrityError
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.importing import StoredFileSource
from knowtation_backup.operations.repository.restoring import restore_directory
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.snapshots.directory import SnapshotDirectory

CANISTER = "rrkah-fqaaa-aaaaa-aaaaq-cai"
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
WHOLE = snapshot_files()
CHUNK = next(name for name in WHOLE if name.startswith("wasm_chunk_store/"))
Content = bytes | tarfile.TarInfo
TAR = shutil.which("tar")


def stored(repository: Repository, data: bytes) -> str:
    sink = MemorySink()
    sink.put("snapshot.tar", (data,))
    source = StoredFileSource(sink=sink, key="snapshot.tar", source_id=CANISTER, kind="canister-snapshot", taken_at=NOW)
    return back_up(repository, source).archive_id


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def without(*names: str) -> dict[str, Content]:
    return {name: content for name, content in WHOLE.items() if name not in names}


def declaring(**changed: int) -> dict[str, Content]:
    return {**WHOLE, "metadata.json": json.dumps({**json.loads(WHOLE["metadata.json"]), **changed}).encode()}


REFUSED: Mapping[str, tuple[str, Mapping[str, Content]]] = {
    "a symbolic link": (
        "snapshot_not_a_file",
        {**without("wasm_module.bin"), "link": member("wasm_module.bin", tarfile.SYMTYPE, "/etc/passwd")},
    ),
    "a link that nobody needs": ("snapshot_not_a_file", {**WHOLE, "link": member("more", tarfile.SYMTYPE, "x")}),
    "a hard link": ("snapshot_not_a_file", {**WHOLE, "more": member("more", tarfile.LNKTYPE, "metadata.json")}),
    "a device": ("snapshot_not_a_file", {**WHOLE, "null": member("null", tarfile.CHRTYPE)}),
    "a pipe": ("snapshot_not_a_file", {**WHOLE, "pipe": member("pipe", tarfile.FIFOTYPE)}),
    "no metadata": ("snapshot_file_missing", without("metadata.json")),
    "no module": ("snapshot_file_missing", without("wasm_module.bin")),
    "no memory": ("snapshot_file_missing", without("stable_memory.bin")),
    "no chunk": ("snapshot_file_missing", without(CHUNK)),
    "a directory in place of the module": (
        "snapshot_file_missing",
        {**without("wasm_module.bin"), "d": member("wasm_module.bin", tarfile.DIRTYPE)},
    ),
    "a directory around all": ("snapshot_file_missing", {f"around/{name}": data for name, data in WHOLE.items()}),
    "a short memory": ("snapshot_file_size", declaring(stable_memory_size=10_001)),
    "a long memory": ("snapshot_file_size", declaring(wasm_memory_size=0)),
    "another chunk": ("snapshot_chunk_hash", {**WHOLE, CHUNK: b"other"}),
    "a chunk too many": ("snapshot_chunk_surplus", {**WHOLE, f"wasm_chunk_store/{'0' * 64}.bin": b"x"}),
    "no Wasm": ("snapshot_not_wasm", {**WHOLE, "wasm_module.bin": bytes(len(WHOLE["wasm_module.bin"]))}),
    "no JSON": ("snapshot_metadata", {**WHOLE, "metadata.json": b"{}"}),
    "a file twice": ("snapshot_file_twice", {**WHOLE, "./metadata.json": WHOLE["metadata.json"]}),
    "a name above": ("snapshot_file_name", {**WHOLE, "../escape": b"x"}),
    "a name above by a detour": ("snapshot_file_name", {**WHOLE, "a/../../escape": b"x"}),
    "an absolute name": ("snapshot_file_name", {**WHOLE, "/etc/escape": b"x"}),
    "a directory above": ("snapshot_file_name", {**WHOLE, "d": member("../d", tarfile.DIRTYPE)}),
    "a name of Windows": ("snapshot_file_name", {**WHOLE, "a\\..\\b": b"x"}),
    "an odd name": ("bad_section_name", {**WHOLE, "a b": b"x"}),
    "a download under way": ("snapshot_unfinished", {**WHOLE, "./.download_progress.json": b"{}"}),
    "nothing": ("snapshot_file_missing", {}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_whole_snapshot_of_files_is_refused(what: str) -> None:
    kind, members = REFUSED[what]
    repository = new_repository(MemorySink())
    with pytest.raises(BackupError) as caught:
        stored(repository, tar_of(members))
    assert caught.value.kind == kind
    assert repository.archive_ids() == []


def test_cut_files_are_refused_wherever_they_end() -> None:
    data = tar_of(WHOLE)
    end = len(data.rstrip(b"\0"))
    repository = new_repository(MemorySink())
    for size in [0, 1, 511, 512, 513, 600, *range(1024, end, 2048)]:
        with pytest.raises(IntegrityError) as caught:
            stored(repository, data[:size])
        assert caught.value.kind in {"bad_payload", "section_size", "snapshot_file_missing"}
    assert repository.archive_ids() == []


def test_digests_of_all_files_are_kept_beside_them() -> None:
    repository = new_repository(MemorySink())
    archive_id = stored(repository, tar_of({**WHOLE, "./.lock": b"", "facts.json": b"{}"}))
    found = contents(repository, archive_id)
    details = found["details.json"]
    assert isinstance(details, bytes)
    capture = json.loads(details)["capture"]
    files = {**WHOLE, "facts.json": b"{}"}
    assert capture["digests"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert capture["left_out"] == [".lock"]
    assert {name: found[name] for name in files} == files
    assert ".lock" not in found


def packed(directory: Path, *options: str) -> bytes:
    """Pack with the real program, from within."""
    assert TAR is not None
    done = subprocess.run([TAR, *options, "."], cwd=directory, capture_output=True, check=True)  # noqa: S603 - tar
    return done.stdout


def as_a_whole(directory: Path) -> bytes:
    return packed(directory, "-cf", "-")


def compressed(directory: Path) -> bytes:
    return packed(directory, "-czf", "-")


def with_holes(directory: Path) -> bytes:
    return packed(directory, "--sparse", "-cf", "-")


@pytest.mark.skipif(TAR is None, reason="there is no tar")
@pytest.mark.parametrize("pack", [as_a_whole, compressed, with_holes])
def test_directories_that_tar_packed_come_back_whole(tmp_path: Path, pack: Callable[[Path], bytes]) -> None:
    directory = tmp_path / "snapshot"
    whole = {**snapshot_files(stable=bytes(1 << 20) + b"end"), ".lock": b""}
    for name, content in whole.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    os.truncate(directory / "stable_memory.bin", 0)
    with (directory / "stable_memory.bin").open("r+b") as file:  # again, with a hole
        file.seek(1 << 20)
        file.write(b"end")
    data = pack(directory)
    assert (data[:2] == b"\x1f\x8b") == (pack is compressed)
    repository = new_repository(MemorySink())
    restored = restore_directory(repository, stored(repository, data), tmp_path / "restored").directory
    del whole[".lock"]
    found = {str(path.relative_to(restored)): path.read_bytes() for path in restored.rglob("*") if path.is_file()}
    assert found == whole
    assert SnapshotDirectory.findings(restored) == ()


@pytest.mark.skipif(TAR is None, reason="there is no tar")
def test_links_that_tar_packed_are_refused(tmp_path: Path) -> None:
    for name, content in WHOLE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "wasm_module.bin").rename(tmp_path / "module")
    (tmp_path / "wasm_module.bin").symlink_to("module")
    with pytest.raises(IntegrityError, match="symbolic link") as caught:
        stored(new_repository(MemorySink()), as_a_whole(tmp_path))
    assert caught.value.kind == "snapshot_not_a_file"
