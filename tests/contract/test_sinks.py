"""Every sink keeps the contract."""

import io
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.mirror import MirrorSink
from knowtation_backup.sinks.retrying import RetryingSink
from knowtation_backup.sinks.wrappers import AppendOnlySink, ObservedSink, ThrottledSink
from knowtation_backup.testing.faults import FaultSink
from knowtation_backup.testing.sinks import SinkContract


class TestLocalDirectory(SinkContract):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> ArchiveSink:
        return FsspecSink(tmp_path / "not" / "made" / "yet")


class TestLocalUrlWithPath(SinkContract):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> ArchiveSink:
        return FsspecSink(f"file://{tmp_path}", "archives/daily")


class TestFsspecMemory(SinkContract):
    @pytest.fixture
    def sink(self) -> Iterator[ArchiveSink]:
        root = f"/contract-{uuid.uuid4().hex}"  # fsspec keeps one memory for the whole process
        yield FsspecSink(f"memory://{root}")
        MemoryFileSystem().rm(root, recursive=True) if MemoryFileSystem().exists(root) else None


class TestMemorySink(SinkContract):
    @pytest.fixture
    def sink(self) -> ArchiveSink:
        return MemorySink()


class TestLockingMemorySink(SinkContract):
    @pytest.fixture
    def sink(self) -> ArchiveSink:
        return MemorySink(locks=True)


class TestFaultlessFaultSink(SinkContract):
    @pytest.fixture
    def sink(self) -> ArchiveSink:
        return FaultSink(MemorySink())


class TestAppendOnly(SinkContract):
    @pytest.fixture
    def sink(self) -> ArchiveSink:
        return AppendOnlySink(MemorySink())


class TestRetrying(SinkContract):
    @pytest.fixture
    def sink(self) -> ArchiveSink:
        return RetryingSink(MemorySink(), repeat_bytes=100_000)


class TestThrottled(SinkContract):
    @pytest.fixture
    def sink(self) -> ArchiveSink:
        return ThrottledSink(
            MemorySink(), upload_bytes_per_second=1e6, download_bytes_per_second=1e6, sleep=lambda _seconds: None
        )


class TestObserved(SinkContract):
    @pytest.fixture
    def sink(self) -> ArchiveSink:
        return ObservedSink(MemorySink(), lambda _event: None)


class TestMirrorOfTwo(SinkContract):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> ArchiveSink:
        return MirrorSink({"memory": MemorySink(), "local": FsspecSink(tmp_path)})


class TestMirrorOfThreeWithAMajority(SinkContract):
    @pytest.fixture
    def sink(self) -> ArchiveSink:
        return MirrorSink({"a": MemorySink(), "b": MemorySink(), "c": MemorySink()}, quorum=2)


class TestMirrorWithATargetThatIsDown(SinkContract):
    """The contract holds on what is left."""

    @pytest.fixture
    def sink(self) -> ArchiveSink:
        down = FaultSink(MemorySink(), fail_from=0)
        # Deleting must reach every target, so it cannot work here.
        targets = {"down": down, "b": MemorySink(), "c": MemorySink()}
        return AppendOnlySink(MirrorSink(targets, quorum=2, tolerate_unreachable=1))


class TestAllWrappersAtOnce(SinkContract):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> ArchiveSink:
        mirror = MirrorSink({"memory": MemorySink(), "local": AppendOnlySink(FsspecSink(tmp_path))})
        return RetryingSink(ObservedSink(ThrottledSink(mirror), lambda _event: None))


class TestTheSinkOfTheHowTo(SinkContract):
    """The page says its sink keeps the contract."""

    @pytest.fixture
    def sink(self) -> ArchiveSink:
        page = (Path(__file__).parents[2] / "docs" / "how-to" / "write-a-sink.md").read_text()
        namespace: dict[str, Any] = {"__name__": "__page__"}
        exec(page.partition("```python\n")[2].partition("```")[0], namespace)  # noqa: S102 - our own page
        sink: ArchiveSink = namespace["DictSink"]()
        return sink


class TestPublishedByRename(SinkContract):
    """A file system where renaming is atomic, such as SFTP; here fsspec's memory plays its part."""

    @pytest.fixture
    def sink(self) -> Iterator[ArchiveSink]:
        root = f"/contract-{uuid.uuid4().hex}"
        filesystem = MemoryFileSystem(skip_instance_cache=True)
        yield FsspecSink(filesystem, root, publish="rename")
        assert [path for path in filesystem.find(root) if ".upload-" in path] == []


class _Bucket(AbstractFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """An object store in miniature: an upload is visible once closed, and lives in parts before."""

    protocol = "bucket"
    cachable = False

    def __init__(self) -> None:
        super().__init__(skip_instance_cache=True, use_listings_cache=False)
        self.objects: dict[str, bytes] = {}
        self.discarded: list[str] = []

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> "_Upload":
        return _Upload(self, path, mode, **kwargs)

    def info(self, path: str, **_kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path in self.objects:
            return {"name": path, "size": len(self.objects[path]), "type": "file"}
        if any(name.startswith(path + "/") for name in self.objects):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def find(self, path: str, **_kwargs: Any) -> dict[str, Any]:
        return {name: self.info(name) for name in self.objects if name.startswith(path + "/")}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_kwargs: Any) -> bytes:
        return self.objects[path][start:end]

    def rm_file(self, path: str) -> None:
        del self.objects[path]


class _Upload(AbstractBufferedFile):  # type: ignore[misc]  # fsspec ships no types
    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:  # noqa: FBT001, FBT002 - fsspec's signature
        self.parts.append(self.buffer.getvalue())
        if final:
            self.fs.objects[self.path] = b"".join(self.parts)
        return True

    def discard(self) -> None:
        self.fs.discarded.append(self.path)
        self.buffer = io.BytesIO()


class TestPublishedByClosing(SinkContract):
    """An object store, where closing an upload publishes it."""

    @pytest.fixture
    def sink(self) -> ArchiveSink:
        return FsspecSink(_Bucket(), "bucket-name", publish="close")


def test_a_failed_upload_is_discarded_and_never_closed() -> None:
    bucket = _Bucket()
    sink = FsspecSink(bucket, "bucket-name", publish="close")

    def chunks() -> Iterator[bytes]:
        yield b"x" * (40 << 20)  # beyond one part, so that a part is on its way
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sink.put("a", chunks())
    assert bucket.objects == {}
    assert bucket.discarded == ["bucket-name/a"]
