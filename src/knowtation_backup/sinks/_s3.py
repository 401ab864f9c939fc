"""
Blobs as objects of an S3 bucket.

An object becomes visible by one request: the PUT of a small one, the completion of an upload in parts. Both carry
``If-None-Match: *``, a checksum the store compares, and a token in the object's metadata by which we know our own
object when the answer was lost. What was not completed is never visible, and is aborted.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from s3fs import S3FileSystem

from .._engine.prefetch import prefetch
from ..contracts import Clock
from ..errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    SinkError,
    SinkPermissionError,
    SinkUnavailableError,
    TruncatedError,
)
from ..model.blobs import BlobInfo, BlobLock, SinkCapabilities, check_key
from ._s3_client import S3Client
from ._s3_locks import S3Locks
from ._s3_upload import Upload
from ._store import Leftover
from .s3_options import S3Options

__all__ = ["S3Store"]

_READ_SIZE: Final = 8 << 20
_PROBE_NAME: Final = ".conditional-write-probe"
"""Not a valid key, so it is never listed."""
_PROBE_TEXT: Final = b"knowtation_backup looked here whether this store keeps what is there. You may delete this.\n"


class S3Store:
    """
    Objects below a prefix of a bucket.

    Args:
        filesystem: Of s3fs; its credentials, endpoint and additional arguments are used.
        root: Bucket and prefix.
        options: How objects are written.
        owned: Whether the file system was made for this store, which then closes it.
        clock: Dates Object Lock.
        sleep: Waits between attempts.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        filesystem: S3FileSystem,
        root: str,
        options: S3Options,
        *,
        owned: bool,
        clock: Clock,
        sleep: Callable[[float], None],
    ) -> None:
        bucket, prefix, _version = filesystem.split_path(root)
        if not bucket:
            raise ConfigurationError("an S3 sink needs a bucket", kind="bad_option", hint="s3://bucket/prefix")
        self._bucket = bucket
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._options = options
        self._clock = clock
        self._client = S3Client(filesystem, bucket, options, owned=owned, sleep=sleep)
        self._locks = S3Locks(self._client, self._prefix, self.location, options, self._head)
        self._proved: bool | None = None
        self._bucket_seen = False

    @property
    def capabilities(self) -> SinkCapabilities:
        """Create-only where it is known: on AWS, where `probe` proved it, or where the options vouch for it."""
        asked = self._options.conditional
        known = self._proved if self._proved is not None else (asked or (asked is None and self._is_aws()))
        return SinkCapabilities(create_only=known and asked is not False, durable=True, locks=True)

    @property
    def location(self) -> str:
        """Bucket and prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def close(self) -> None:
        """End the session, if it is ours."""
        self._client.close()

    def put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        """Refuse a taken key, then write."""
        doing = f"writing {key} in {self.location}"
        with contextlib.suppress(BlobNotFoundError):
            self.stat(key)
            message = f"there is a blob {key} in {self.location} already"
            raise BlobExistsError(message, hint="published blobs are never overwritten", key=key)
        creation = self._options.creation(self._clock())
        upload = Upload(self._client, self._prefix + key, self._options, creation=creation, doing=doing)
        return _info(key, upload.run(chunks))

    def read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        """Yield a range: the first block tells size and version, the others are fetched side by side."""
        if size_bytes == 0:
            self.stat(key)
            return
        stop = None if size_bytes is None else start + size_bytes
        first = self._first_block(key, start, start + _READ_SIZE if stop is None else min(stop, start + _READ_SIZE))
        if first is None:
            return
        data, total, version = first
        yield data
        end = total if stop is None else min(total, stop)
        blocks = ((at, min(end, at + _READ_SIZE)) for at in range(start + len(data), end, _READ_SIZE))
        del data, first
        workers = self._options.concurrency

        def fetch(block: tuple[int, int]) -> bytes:
            return self._block(key, *block, version)

        with contextlib.closing(prefetch(fetch, blocks, workers=workers, window=workers)) as fetched:
            yield from fetched

    def _first_block(self, key: str, start: int, stop: int) -> tuple[bytes, int, str] | None:
        """Return the first bytes, the object's size and its version; `None` when it ends before *start*."""
        doing = f"reading {key} in {self.location}"
        try:
            data, answer = self._get(key, doing, start, stop)
        except BlobNotFoundError:
            self._check_bucket(doing)
            raise
        except SinkError as error:
            if error.context.get("status") != 416:
                raise
            if self.stat(key).size_bytes > start:  # pragma: no cover - a store that contradicts itself
                raise
            return None
        total = int(str(answer.get("ContentRange", "")).rpartition("/")[2] or len(data))
        if len(data) != min(stop, total) - start:
            message = f"{key} in {self.location} gave {len(data)} bytes from {start}, of {total}"
            raise TruncatedError(message, key=key, offset=start + len(data))
        return data, total, str(answer.get("ETag", ""))

    def _block(self, key: str, start: int, stop: int, version: str) -> bytes:
        doing = f"reading {key} in {self.location}"
        replaced = f"{key} in {self.location} was replaced while it was read"
        try:
            data, answer = self._get(key, doing, start, stop, **({"IfMatch": version} if version else {}))
        except BlobExistsError as error:
            raise IntegrityError(replaced, kind="blob_replaced", hint="find out who writes there", key=key) from error
        if str(answer.get("ETag", "")) != version:
            raise IntegrityError(replaced, kind="blob_replaced", hint="find out who writes there", key=key)
        if len(data) != stop - start:
            message = f"{key} in {self.location} ended at byte {start + len(data)}, expected {stop}"
            raise TruncatedError(message, key=key, offset=start + len(data))
        return data

    def _get(self, key: str, doing: str, start: int, stop: int, **condition: str) -> tuple[bytes, Mapping[str, Any]]:
        span = f"bytes={start}-{stop - 1}"
        return self._client.get(doing, Key=self._prefix + key, Range=span, **condition, **self._options.customer_key)

    def stat(self, key: str) -> BlobInfo:
        """Ask for size and time."""
        return _info(key, self._head(key))

    def _head(self, key: str) -> Mapping[str, Any]:
        doing = f"looking at {key} in {self.location}"
        try:
            return self._client.call("head_object", doing, Key=self._prefix + key, **self._options.customer_key)
        except BlobNotFoundError as error:
            self._check_bucket(doing)
            raise BlobNotFoundError(f"there is no blob {key} in {self.location}", key=key) from error
        except SinkPermissionError:
            # An answer to HEAD has no body to say why; one to GET has.
            self._get(key, doing, 0, 1)
            raise

    def _check_bucket(self, doing: str) -> None:
        """Tell a missing bucket from a missing object: their answers to HEAD are the same."""
        if self._bucket_seen:
            return
        try:
            self._client.call("head_bucket", doing)
        except BlobNotFoundError as error:
            message = f"{doing} failed: there is no bucket {self._bucket}"
            hint = "make the bucket, or check its name, region and endpoint"
            raise SinkError(message, kind="no_such_bucket", hint=hint) from error
        except SinkPermissionError:
            return  # it is there; credentials need not be allowed to look at it
        self._bucket_seen = True

    def walk(self, prefix: str) -> Iterator[BlobInfo]:
        """List; sorted here, because not every store does."""
        found: list[BlobInfo] = []
        for page in self._pages("list_objects_v2", prefix, "ContinuationToken", "NextContinuationToken"):
            for facts in page.get("Contents", ()):
                if not facts["Key"].startswith(self._prefix + prefix):  # pragma: no cover - some take "a//" for "a/"
                    continue
                with contextlib.suppress(ConfigurationError):
                    key = check_key(facts["Key"].removeprefix(self._prefix))
                    moment = _utc(facts.get("LastModified"))
                    found.append(BlobInfo(key=key, size_bytes=int(facts["Size"]), modified_at=moment))
        found.sort(key=lambda info: info.key)
        yield from found

    def _pages(self, method: str, prefix: str, *names: str) -> Iterator[Mapping[str, Any]]:
        """Yield pages; *names* are pairs of a parameter and the member of the answer that it takes."""
        doing = f"listing {self.location}"
        position: dict[str, Any] = {}
        while True:
            page = self._client.call(method, doing, Prefix=self._prefix + prefix, **position)
            yield page
            following = {ours: page.get(theirs) for ours, theirs in zip(names[::2], names[1::2], strict=True)}
            if not page.get("IsTruncated"):
                return
            if following == position:
                raise SinkUnavailableError(f"{doing} failed: the list does not go on", hint="report it to the store")
            position = {name: value for name, value in following.items() if value}

    def delete(self, key: str) -> None:
        """Remove a blob that is there."""
        self.stat(key)
        self._client.call("delete_object", f"deleting {key} in {self.location}", Key=self._prefix + key)

    def lock_of(self, key: str) -> BlobLock:
        """Ask how long Object Lock keeps a blob."""
        return self._locks.lock_of(key)

    def retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        """Have Object Lock keep a blob until a moment."""
        return self._locks.retain_until(key, until)

    def leftovers(self) -> Iterator[Leftover]:
        """Yield uploads in parts that were neither completed nor aborted."""
        markers = ("KeyMarker", "NextKeyMarker", "UploadIdMarker", "NextUploadIdMarker")
        for page in self._pages("list_multipart_uploads", "", *markers):
            for facts in page.get("Uploads", ()):
                path = str(facts["Key"]).removeprefix(self._prefix)
                upload_id = str(facts["UploadId"])
                with contextlib.suppress(BlobNotFoundError):
                    yield Leftover(
                        path=path,
                        size_bytes=self._uploaded_bytes(path, upload_id),
                        modified_at=_utc(facts.get("Initiated")),
                        upload_id=upload_id,
                    )

    def _uploaded_bytes(self, path: str, upload_id: str) -> int:
        doing = f"looking at the unfinished upload of {path} in {self.location}"
        total, marker = 0, 0
        while True:
            more: dict[str, Any] = {"PartNumberMarker": marker} if marker else {}
            try:
                page = self._client.call("list_parts", doing, Key=self._prefix + path, UploadId=upload_id, **more)
            except SinkError as error:
                if error.kind == "upload_gone":
                    raise BlobNotFoundError(f"{doing} failed: it is gone", key=path) from error
                raise
            total += sum(int(part["Size"]) for part in page.get("Parts", ()))
            following = int(page.get("NextPartNumberMarker") or 0)
            if not page.get("IsTruncated") or following <= marker:
                return total
            marker = following

    def remove_leftover(self, leftover: Leftover) -> None:
        """Abort one of them."""
        doing = f"ending the unfinished upload of {leftover.path} in {self.location}"
        key = self._prefix + leftover.path
        try:
            self._client.call("abort_multipart_upload", doing, Key=key, UploadId=leftover.upload_id)
        except SinkError as error:
            if error.kind != "upload_gone":
                raise

    def probe(self) -> None:
        """
        Find out whether the store refuses to create what is there, in one request and in parts.

        The object this is tried on always has the same small content: whatever the store does, nothing is lost.
        """
        doing = f"probing {self.location}"
        key = self._prefix + _PROBE_NAME
        creation = self._options.creation(self._clock(), lock=False)

        def refused(method: str, **parameters: Any) -> bool:
            try:
                self._client.call(method, doing, Key=key, IfNoneMatch="*", **parameters)
            except BlobExistsError:
                return True
            return False

        refused("put_object", Body=_PROBE_TEXT, **creation)
        proved = refused("put_object", Body=_PROBE_TEXT, **creation)
        upload_id = self._client.call("create_multipart_upload", doing, Key=key, **creation)["UploadId"]
        try:
            address = {"Key": key, "UploadId": upload_id, **self._options.customer_key}
            part = self._client.call("upload_part", doing, PartNumber=1, Body=_PROBE_TEXT, **address)
            listed = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            completion = {"UploadId": upload_id, "MultipartUpload": listed, **self._options.customer_key}
            proved = refused("complete_multipart_upload", **completion) and proved
        finally:
            with contextlib.suppress(SinkError):
                self._client.once("abort_multipart_upload", doing, Key=key, UploadId=upload_id)
        self._proved = proved

    def _is_aws(self) -> bool:
        host = urlsplit(self._client.endpoint).hostname or ""
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _info(key: str, facts: Mapping[str, Any]) -> BlobInfo:
    return BlobInfo(key=key, size_bytes=int(facts["ContentLength"]), modified_at=_utc(facts.get("LastModified")))


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    return None if moment is None else moment.astimezone(dt.UTC)
