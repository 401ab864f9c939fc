"""Writing one object: in one request, or in parts side by side; visible complete or not at all."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, Final, Self

from .._engine.cancellation import Cancellation
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    DigestMismatchError,
    SinkError,
    SinkFullError,
    SinkUnavailableError,
    TruncatedError,
)
from ._s3_client import Body, S3Client
from .s3_options import S3Options

__all__ = ["MAX_PARTS", "Upload"]

MAX_PARTS: Final = 10_000
_EQUAL_PARTS: Final = 5_000
_LATER_FACTOR: Final = 4

TOKEN_NAME: Final = "knowtation-put"  # noqa: S105 - a name, and no secret at all
"""Metadata that tells our own object from another writer's, when the answer to its creation was lost."""


class Upload:
    """
    One object on its way.

    Args:
        client: Of the bucket.
        key: Of the object, with its prefix.
        options: How it is written.
        creation: Parameters of the request that creates it.
        doing: For messages.
    """

    def __init__(
        self, client: S3Client, key: str, options: S3Options, *, creation: Mapping[str, Any], doing: str
    ) -> None:
        self._client = client
        self._key = key
        self._options = options
        self._token = uuid.uuid4().hex
        self._creation = {**creation, "Metadata": {TOKEN_NAME: self._token}}
        self._condition: dict[str, Any] = {} if options.conditional is False else {"IfNoneMatch": "*"}
        self._doing = doing
        self.size_bytes = 0
        self._checksum: str | None = None

    def run(self, chunks: Iterable[bytes]) -> Mapping[str, Any]:
        """
        Write everything and return what the store says of the object.

        Raises:
            BlobExistsError: Somebody else has the key.
            BackupError: The store failed; nothing is visible unless the message says that this is not known.
        """
        parts = _parts(chunks, self._options.part_bytes)
        first: list[list[bytes | memoryview]] = []
        for part in parts:
            first.append(part)
            self.size_bytes += sum(map(len, part))
            if self.size_bytes >= self._options.multipart_from_bytes:
                self._in_parts(first, parts)
                break
        else:
            body = Body([piece for part in first for piece in part])
            first.clear()
            self._in_one(body)
        return self._confirm()

    # -- one request --------------------------------------------------------------------------------------------------

    def _in_one(self, body: Body) -> None:
        checksum: dict[str, Any] = body.checksum(self._options.checksum)
        self._checksum = checksum.get("ChecksumSHA256") or checksum.get("ChecksumCRC32")

        def send() -> None:
            self._client.once(
                "put_object",
                self._doing,
                Key=self._key,
                Body=body.sendable(),
                **self._creation,
                **self._condition,
                **checksum,
            )

        self._publish(send)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _in_parts(self, first: list[list[bytes | memoryview]], parts: Iterator[list[bytes | memoryview]]) -> None:
        algorithm = self._options.checksum
        named: dict[str, Any] = {} if algorithm in {None, "md5"} else {"ChecksumAlgorithm": str(algorithm).upper()}
        answer = self._client.call("create_multipart_upload", self._doing, Key=self._key, **self._creation, **named)
        upload_id = str(answer["UploadId"])
        try:
            done = _Parts(self._client, self._options, key=self._key, upload_id=upload_id, doing=self._doing)
            with done:
                while first:
                    done.add(first.pop(0))
                for part in parts:
                    self.size_bytes += sum(map(len, part))
                    done.add(part)
                listed = done.finish()
            self._checksum = _composite(listed) if algorithm == "sha256" else None

            def send() -> None:
                self._client.once(
                    "complete_multipart_upload",
                    self._doing,
                    Key=self._key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": listed},
                    **self._condition,
                    **self._options.customer_key,
                )

            self._publish(send)
        except BaseException:
            # What cannot be ended now is found as a leftover. After an answer that was lost this changes nothing.
            with contextlib.suppress(BackupError):
                self._client.once("abort_multipart_upload", self._doing, Key=self._key, UploadId=upload_id)
            raise

    # -- becoming visible ---------------------------------------------------------------------------------------------

    def _publish(self, send: Callable[[], None]) -> None:
        """Send what makes the object visible; when it is unclear what happened, look before deciding."""

        def attempt() -> None:
            try:
                send()
            except SinkError as error:
                # An earlier attempt may have succeeded without our hearing of it.
                if not (isinstance(error, BlobExistsError | SinkUnavailableError) or error.kind == "upload_gone"):
                    raise
                if self._is_ours(error):
                    return
                if isinstance(error, BlobExistsError):
                    message = f"{self._doing} failed: the key was taken and is free again"
                    raise SinkUnavailableError(message, hint="find out who writes and deletes there") from error
                raise

        self._client.retrying(attempt)

    def _is_ours(self, error: BackupError) -> bool:
        """Whether the object is there and ours; somebody else's is `BlobExistsError`."""
        try:
            found = self._head()
        except BlobNotFoundError:
            return False
        if found.get("Metadata", {}).get(TOKEN_NAME) == self._token:
            return True
        message = f"{self._doing} failed: another writer took the key"
        raise BlobExistsError(message, hint="published blobs are never overwritten") from error

    def _confirm(self) -> Mapping[str, Any]:
        """Look at what was written: ours, whole, and with the checksum the store was given."""
        found = self._client.retrying(self._head)
        if found.get("Metadata", {}).get(TOKEN_NAME, self._token) != self._token:
            # Some stores look and complete in two steps: of two writers in one instant, the later one replaces.
            message = f"{self._doing} failed: another writer took the key in the same instant"
            raise BlobExistsError(message, hint="let one writer write to one path: this store let both pass")
        size_bytes = int(found["ContentLength"])
        if size_bytes != self.size_bytes:
            message = f"{self._doing}: {size_bytes} bytes are there after {self.size_bytes} were written"
            raise TruncatedError(message)
        kept = str(found.get("ChecksumSHA256") or found.get("ChecksumCRC32") or "")
        comparable = self._checksum is not None and kept.count("-") == self._checksum.count("-")
        if kept and comparable and kept != self._checksum:
            message = f"{self._doing}: the store's checksum is {kept}, that of what was sent is {self._checksum}"
            raise DigestMismatchError(message, hint="another writer may have replaced it")
        return found

    def _head(self) -> Mapping[str, Any]:
        return self._client.once(
            "head_object", self._doing, Key=self._key, ChecksumMode="ENABLED", **self._options.customer_key
        )


class _Parts:
    """Sends parts side by side; leaves no thread and no request behind."""

    def __init__(self, client: S3Client, options: S3Options, *, key: str, upload_id: str, doing: str) -> None:
        self._client = client
        self._algorithm = options.checksum
        self._address = {"Key": key, "UploadId": upload_id, **options.customer_key}
        self._doing = doing
        self._cancellation = Cancellation()
        self._budget_bytes = options.concurrency * options.part_bytes
        self._held_bytes = 0
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._pool = ThreadPoolExecutor(options.concurrency, thread_name_prefix="s3-part")
        self._futures: list[Future[dict[str, Any]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._cancellation.cancel()
        self._pool.shutdown(cancel_futures=True)

    def add(self, pieces: list[bytes | memoryview]) -> None:
        """Take one more part; waits while too many bytes are under way."""
        number = len(self._futures) + 1
        if number > MAX_PARTS:
            message = f"{self._doing} failed: it is larger than {MAX_PARTS:,} parts"
            raise SinkFullError(message, kind="file_too_large", hint="raise S3Options.part_bytes")
        body = Body(pieces)
        with self._changed:
            while self._held_bytes and self._held_bytes + body.size_bytes > self._budget_bytes and not self._failure:
                self._changed.wait()
            self._check()
            self._held_bytes += body.size_bytes
        self._futures.append(self._pool.submit(self._send, number, body))

    def finish(self) -> list[dict[str, Any]]:
        """Wait for all parts and return what completing the upload needs."""
        wait(self._futures, return_when=FIRST_EXCEPTION)
        self._check()
        return [future.result() for future in self._futures]

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _send(self, number: int, body: Body) -> dict[str, Any]:
        try:
            checksum: dict[str, Any] = body.checksum(self._algorithm)
            answer = self._client.call(
                "upload_part",
                self._doing,
                cancellation=self._cancellation,
                PartNumber=number,
                Body=body.sendable(),
                **self._address,
                **checksum,
            )
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or error
            self._cancellation.cancel()
            raise
        finally:
            with self._changed:
                self._held_bytes -= body.size_bytes
                self._changed.notify_all()
        checksum.pop("ContentMD5", None)
        return {"PartNumber": number, "ETag": answer["ETag"], **checksum}


def _parts(chunks: Iterable[bytes], size_bytes: int) -> Iterator[list[bytes | memoryview]]:
    """Yield the stream in parts of equal size, later ones larger; nothing is copied."""
    number, pieces, room = 1, list[bytes | memoryview](), size_bytes
    for chunk in chunks:
        rest: bytes | memoryview = chunk
        while len(rest) >= room:
            whole = memoryview(rest)
            pieces.append(whole[:room])
            rest = whole[room:]
            yield pieces
            number, pieces = number + 1, []
            room = size_bytes if number <= _EQUAL_PARTS else size_bytes * _LATER_FACTOR
        if rest:
            pieces.append(rest)
            room -= len(rest)
    if pieces:
        yield pieces


def _composite(listed: list[dict[str, Any]]) -> str:
    """Return the checksum that a store gives an object of these parts."""
    digests = b"".join(base64.b64decode(part["ChecksumSHA256"]) for part in listed)
    return f"{base64.b64encode(hashlib.sha256(digests).digest()).decode()}-{len(listed)}"
