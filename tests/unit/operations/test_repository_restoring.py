"""Restoring archives of a repository: what is written is what was backed up, complete or not at all."""

import datetime as dt
import errno
import random
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import attrs
import pytest
from repository_stage import StagedSource, new_repository

from knowtation_backup._engine import new_tree
from knowtation_backup.errors import (
    BackupError,
    BlobNotFoundError,
    ConfigurationError,
    DecryptionError,
    IntegrityError,
    PlanStaleError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
    TargetNotReadyError,
)
from knowtation_backup.model.events import Event
from knowtation_backup.model.reports import Outcome, jsonable
from knowtation_backup.operations.repository.backup import DETAILS_SECTION, back_up
from knowtation_backup.operations.repository.restoring import (
    apply_restore,
    plan_restore,
    restore_directory,
    restore_stream,
)
from knowtation_backup.repository.layout import PACK_PREFIX, archive_key
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink

PAGE = 4096
CHAOS = random.Random(11)  # noqa: S311 - content of tests


def noise(pages: int) -> bytes:
    return CHAOS.randbytes(pages * PAGE)


HEAP = noise(300) + bytes(700 * PAGE) + noise(3) + bytes(PAGE) + noise(1) + b"the end"
STABLE = bytes(600 * PAGE)
FILES = {"metadata.json": b"{}\n", "wasm_module.bin": noise(300), "wasm_chunk_store/ab.bin": b"chunk", "empty": b""}


@pytest.fixture
def repository() -> Repository:
    return new_repository(MemorySink())


def snapshot(heap: bytes = HEAP, **more: bytes) -> StagedSource:
    return StagedSource(images={"wasm_memory.bin": heap, "stable_memory.bin": STABLE}, files={**FILES, **more})


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_directory_is_what_was_backed_up(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    told: list[Event] = []
    report = restore_directory(repository, archive_id, tmp_path / "new" / "here", observer=told.append)
    wanted = {**FILES, "wasm_memory.bin": HEAP, "stable_memory.bin": STABLE}
    assert files(tmp_path / "new" / "here") == wanted
    assert (report.outcome, report.exit_code, report.directory) == (Outcome.OK, 0, tmp_path / "new" / "here")
    assert report.size_bytes == sum(map(len, wanted.values()))
    assert [event.name for event in told] == ["restore.started", "restore.finished"]
    assert archive_id in str(report)
    assert jsonable(report)["complete"] is True
    assert names(tmp_path / "new") == ["here"]  # no trace of its making


def test_every_archive_of_a_chain_comes_back(repository: Repository, tmp_path: Path) -> None:
    image = bytearray(HEAP)
    versions: dict[str, bytes] = {}
    for number in range(6):
        for _ in range(20):
            at = CHAOS.randrange(len(image) // PAGE) * PAGE
            image[at : at + PAGE] = noise(1) if CHAOS.random() < 0.7 else bytes(PAGE)
        if number == 3:
            image += noise(40)
        if number == 5:
            del image[-90 * PAGE :]
        versions[back_up(repository, snapshot(bytes(image))).archive_id] = bytes(image)
    for archive_id, wanted in versions.items():
        assert b"".join(restore_stream(repository, archive_id, "wasm_memory.bin")) == wanted
        restore_directory(repository, archive_id, tmp_path / archive_id, sections=["wasm_memory.bin"])
        assert files(tmp_path / archive_id) == {"wasm_memory.bin": wanted}


def test_files_are_private_and_zeros_take_no_space(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    restore_directory(repository, archive_id, tmp_path / "here")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "here").rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "here", tmp_path / "here/wasm_chunk_store")}
    assert (modes, folders) == ({0o600}, {0o700})
    assert (tmp_path / "here/stable_memory.bin").stat().st_blocks == 0
    assert (tmp_path / "here/wasm_memory.bin").stat().st_blocks * 512 < 310 * PAGE


def test_what_the_capture_found_is_written_when_asked_for(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    restore_directory(repository, archive_id, tmp_path / "all", details=True)
    assert set(files(tmp_path / "all")) == {*FILES, "wasm_memory.bin", "stable_memory.bin", DETAILS_SECTION}
    restore_directory(repository, archive_id, tmp_path / "one", sections="metadata.json", details=True)
    assert set(files(tmp_path / "one")) == {"metadata.json", DETAILS_SECTION}


def test_tools_find_the_directory_of_chunks_though_there_are_none(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, StagedSource(files={"metadata.json": b"{}"})).archive_id
    restore_directory(repository, archive_id, tmp_path / "here")
    assert (tmp_path / "here" / "wasm_chunk_store").is_dir()


def test_records_that_are_no_export_become_lines(repository: Repository, tmp_path: Path) -> None:
    records = {(b"o%d" % n, b"name"): b'{"n":%d}' % n for n in range(50)}
    archive_id = back_up(repository, StagedSource(records={"things": records})).archive_id
    report = restore_directory(repository, archive_id, tmp_path / "here")
    lines = (tmp_path / "here" / "things.ndjson").read_bytes().splitlines()
    assert sorted(lines) == sorted(records.values())
    assert (report.sections[0].records, report.sections[0].size_bytes) == (50, sum(len(line) + 1 for line in lines))


def test_an_incomplete_archive_says_so(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, StagedSource(files={"a": b"a"}, complete=False)).archive_id
    report = restore_directory(repository, archive_id, tmp_path / "here")
    assert report.outcome is Outcome.PARTIAL
    assert "INCOMPLETE" in str(report)


# -- nothing is harmed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["file", "full directory", "dangling link"])
def test_what_is_there_is_not_touched(repository: Repository, tmp_path: Path, there: str) -> None:
    target = tmp_path / "here"
    if there == "file":
        target.write_text("mine")
    elif there == "dangling link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    archive_id = back_up(repository, snapshot()).archive_id
    with pytest.raises(TargetNotReadyError):
        restore_directory(repository, archive_id, target)
    with pytest.raises(TargetNotReadyError):
        plan_restore(repository, archive_id, target)
    assert names(tmp_path) == ["here"]
    assert (target / "mine" if there == "full directory" else target).is_symlink() or b"mine" in next(
        iter(files(tmp_path).values())
    )


def test_an_empty_directory_is_taken(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    archive_id = back_up(repository, snapshot()).archive_id
    restore_directory(repository, archive_id, tmp_path / "here")
    assert files(tmp_path / "here")["wasm_memory.bin"] == HEAP


STAMP = "here.pre-restore-20260501T073000Z"


def half_past_seven() -> dt.datetime:
    return dt.datetime(2026, 5, 1, 7, 30, tzinfo=dt.UTC)


def test_what_is_moved_aside_has_a_year_of_four_digits(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"mine")
    archive_id = back_up(repository, snapshot()).archive_id
    first = dt.datetime(1, 1, 1, 7, 30, tzinfo=dt.UTC)
    report = restore_directory(repository, archive_id, tmp_path / "here", replace=True, clock=lambda: first)
    assert report.moved_aside == tmp_path / "here.pre-restore-00010101T073000Z"


@pytest.mark.parametrize("there", ["file", "directory", "nothing"])
def test_what_is_there_is_moved_aside_when_asked_for(repository: Repository, tmp_path: Path, there: str) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    target = tmp_path / "here"
    if there == "file":
        target.write_bytes(b"mine")
    elif there == "directory":
        target.mkdir()
        (target / "mine").write_bytes(b"mine")
    plan = plan_restore(repository, archive_id, target, replace=True)
    assert (plan.replaces, "kept beside" in str(plan)) == (there != "nothing", there != "nothing")
    report = restore_directory(repository, archive_id, target, replace=True, clock=half_past_seven)
    assert files(target)["wasm_memory.bin"] == HEAP
    assert report.moved_aside == (None if there == "nothing" else tmp_path / STAMP)
    kept = {"file": b"mine", "directory": {"mine": b"mine"}}.get(there)
    if report.moved_aside is not None:
        assert kept == (files(report.moved_aside) if there == "directory" else report.moved_aside.read_bytes())
        assert str(report.moved_aside) in str(report)
    if there == "nothing":
        restore_directory(repository, archive_id, target, replace=True, clock=half_past_seven)
    with pytest.raises(TargetNotReadyError):  # twice within a second
        restore_directory(repository, archive_id, target, replace=True, clock=half_past_seven)


def test_a_restore_that_fails_moves_nothing(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine").write_bytes(b"mine")
    sink = repository.sink
    assert isinstance(sink, MemorySink)
    for info in list(sink.list(PACK_PREFIX)):
        sink.delete(info.key)
    with pytest.raises(BlobNotFoundError):
        restore_directory(repository, archive_id, tmp_path / "here", replace=True)
    assert files(tmp_path) == {"here/mine": b"mine"}


def test_what_was_there_comes_back_when_the_last_step_fails(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine").write_bytes(b"mine")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise PermissionError(13, "refused")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(SinkPermissionError):
        restore_directory(repository, archive_id, tmp_path / "here", replace=True)
    assert files(tmp_path) == {"here/mine": b"mine"}


def test_what_comes_to_be_there_meanwhile_is_not_replaced(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, snapshot()).archive_id

    def intrude(_event: Event) -> None:
        if not (tmp_path / "here").exists():
            (tmp_path / "here").mkdir()
            (tmp_path / "here" / "theirs").write_text("theirs")

    with pytest.raises(TargetNotReadyError):
        restore_directory(repository, archive_id, tmp_path / "here", observer=intrude)
    assert files(tmp_path) == {"here/theirs": b"theirs"}


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_archive_leaves_no_trace(repository: Repository, tmp_path: Path, damage: str) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    sink = repository.sink
    assert isinstance(sink, MemorySink)
    info = max(sink.list(PACK_PREFIX), key=lambda info: info.size_bytes)
    blob = b"".join(sink.read(info.key))
    sink.delete(info.key)
    if damage == "flip":
        sink.put(info.key, (blob[:5000] + bytes([blob[5000] ^ 1]) + blob[5001:],))
    elif damage == "cut":
        sink.put(info.key, (blob[:-1000],))
    told: list[Event] = []
    with pytest.raises((IntegrityError, DecryptionError, BlobNotFoundError)):
        restore_directory(repository, archive_id, tmp_path / "here", observer=told.append)
    assert names(tmp_path) == []
    assert told[-1].name == "restore.failed"


def test_whatever_read_fails_nothing_is_left(tmp_path: Path) -> None:
    inner = MemorySink()
    repository = new_repository(inner)
    archive_id = back_up(repository, snapshot()).archive_id
    counting = attrs.evolve(repository, sink=FaultSink(inner))
    restore_directory(counting, archive_id, tmp_path / "whole")
    assert isinstance(counting.sink, FaultSink)
    for number in range(len(counting.sink.operations)):
        faulty = attrs.evolve(repository, sink=FaultSink(inner, fail_at=number))
        with pytest.raises(SinkUnavailableError):
            restore_directory(faulty, archive_id, tmp_path / "here")
        assert names(tmp_path) == ["whole"]


@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_disk_that_fails_while_it_is_given_more_is_noticed(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The system reports such a failure once, and a later flush succeeds."""
    archive_id = back_up(repository, snapshot(noise(1000))).archive_id
    calls: list[int] = []

    def fdatasync(_fd: int) -> None:
        calls.append(1)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, "full")

    class AtOnce(ThreadPoolExecutor):
        def submit(self, *args: Any, **more: Any) -> Any:
            future = super().submit(*args, **more)
            wait([future])
            return future

    monkeypatch.setattr(new_tree, "_SYNC_BYTES", 1 << 20)
    monkeypatch.setattr(new_tree, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr("os.fdatasync", fdatasync)
    with pytest.raises(SinkFullError):
        restore_directory(repository, archive_id, tmp_path / "here")
    assert len(calls) >= call + 1
    assert names(tmp_path) == []


def test_a_page_under_another_id_is_noticed(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    key_class = type(repository.writer_key)
    page_ids = key_class.page_ids

    def other(self: object, pages: memoryview) -> list[bytes]:
        found = page_ids(self, pages)  # type: ignore[arg-type]  # its own method
        return [*found[:-1], bytes(16)]

    monkeypatch.setattr(key_class, "page_ids", other)
    with pytest.raises(IntegrityError, match=r"page \d+ of wasm_memory.bin") as caught:
        restore_directory(repository, archive_id, tmp_path / "here")
    assert caught.value.kind == "page_changed"
    assert names(tmp_path) == []


def test_a_plan_is_applied_as_it_was_made(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, StagedSource(files={"metadata.json": b"{}", "more": b"x"})).archive_id
    told: list[Event] = []
    plan = plan_restore(repository, archive_id, tmp_path / "all")
    report = apply_restore(repository, plan, observer=told.append)
    assert files(tmp_path / "all") == {"metadata.json": b"{}", "more": b"x"}
    assert (tmp_path / "all" / "wasm_chunk_store").is_dir()
    assert (report.archive_id, report.directory, report.sections) == (archive_id, tmp_path / "all", plan.sections)
    assert [event.name for event in told] == ["restore.started", "restore.finished"]
    apply_restore(repository, plan_restore(repository, archive_id, tmp_path / "one", sections="more", details=True))
    assert set(files(tmp_path / "one")) == {"more", DETAILS_SECTION}
    plan = plan_restore(repository, archive_id, tmp_path / "one", replace=True)
    assert apply_restore(repository, plan, clock=half_past_seven).moved_aside == tmp_path / STAMP.replace("here", "one")


def test_a_plan_that_no_longer_holds_is_refused(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    target = tmp_path / "here"
    into_nothing = plan_restore(repository, archive_id, target, replace=True)
    target.write_bytes(b"mine")
    over_it = plan_restore(repository, archive_id, target, replace=True)
    with pytest.raises(PlanStaleError, match="something at"):
        apply_restore(repository, into_nothing)
    assert files(tmp_path) == {"here": b"mine"}
    target.unlink()
    with pytest.raises(PlanStaleError, match="nothing at"):
        apply_restore(repository, over_it)
    other = back_up(repository, snapshot(noise(3))).archive_id
    with pytest.raises(PlanStaleError, match="another archive"):
        apply_restore(repository, attrs.evolve(into_nothing, archive_id=other))
    repository.sink.delete(archive_key(archive_id))
    with pytest.raises(PlanStaleError, match="is gone"):
        apply_restore(repository, into_nothing)
    with pytest.raises(ConfigurationError) as caught:
        apply_restore(new_repository(MemorySink()), into_nothing)
    assert caught.value.kind == "wrong_repository"
    assert names(tmp_path) == []


# -- plans and streams ------------------------------------------------------------------------------------------------


def test_a_plan_writes_nothing_and_needs_a_writer_key_only(tmp_path: Path) -> None:
    sink = FsspecSink(tmp_path / "repository")
    repository = new_repository(sink)
    archive_id = back_up(repository, snapshot()).archive_id
    before = {str(p): p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    writer = Repository.open_with(sink, repository.writer_key)
    plan = plan_restore(writer, archive_id, tmp_path / "here")
    assert {str(p): p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert [section.path for section in plan.sections] == [*FILES, "wasm_memory.bin", "stable_memory.bin"]
    assert plan.size_bytes == len(HEAP) + len(STABLE) + sum(map(len, FILES.values()))
    assert plan.packs == sum(1 for _ in sink.list(PACK_PREFIX))
    assert plan.pack_bytes == sum(info.size_bytes for info in sink.list(PACK_PREFIX))
    assert "wasm_memory.bin" in str(plan)
    assert plan_restore(writer, archive_id, tmp_path / "here", sections=["stable_memory.bin"]).packs == 0
    with pytest.raises(ConfigurationError) as caught:
        restore_directory(writer, archive_id, tmp_path / "here")
    assert caught.value.kind == "write_only"


def test_a_section_that_is_not_there_is_named(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    with pytest.raises(ConfigurationError) as caught:
        restore_directory(repository, archive_id, tmp_path / "here", sections=["wasm_memory.bin", "heap"])
    assert caught.value.kind == "no_such_section"
    with pytest.raises(ConfigurationError):
        next(restore_stream(repository, archive_id, "heap"))
    with pytest.raises(BlobNotFoundError):
        restore_directory(repository, archive_id[:-1] + ("1" if archive_id[-1] == "0" else "0"), tmp_path / "here")


@pytest.mark.parametrize("two", [("a", "a/b"), ("a/b", "a"), ("a.ndjson", "")])
def test_sections_that_would_be_one_file_are_refused(
    repository: Repository, tmp_path: Path, two: tuple[str, str]
) -> None:
    records = {} if two[1] else {"a": {(b"o", b"n"): b"{}"}}
    source = StagedSource(files={name: b"x" for name in two if name}, records=records)
    archive_id = back_up(repository, source).archive_id
    with pytest.raises(ConfigurationError) as caught:
        restore_directory(repository, archive_id, tmp_path / "here")
    assert caught.value.kind == "ambiguous_path"
    restore_directory(repository, archive_id, tmp_path / "here", sections=[two[0]])
    assert files(tmp_path / "here") == {two[0]: b"x"}


def test_streams_give_files_and_images(repository: Repository) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    for name, wanted in {"wasm_memory.bin": HEAP, "stable_memory.bin": STABLE, **FILES}.items():
        assert b"".join(restore_stream(repository, archive_id, name)) == wanted


def test_who_stops_a_stream_early_leaves_no_threads(repository: Repository) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    stream: Iterator[bytes] = restore_stream(repository, archive_id, "wasm_memory.bin")
    assert HEAP.startswith(next(stream))
    stream.close()  # type: ignore[attr-defined]  # a generator
    with pytest.raises(StopIteration):
        next(stream)


def test_errors_are_ours(repository: Repository, tmp_path: Path) -> None:
    archive_id = back_up(repository, snapshot()).archive_id
    (tmp_path / "file").write_text("x")
    with pytest.raises(BackupError):
        restore_directory(repository, archive_id, tmp_path / "file" / "here")
