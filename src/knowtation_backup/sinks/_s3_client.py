"""Requests to S3 through the client of an s3fs file system: from any thread, repeated when that may help."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import hashlib
import random
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from s3fs import S3FileSystem

from .._engine.cancellation import Cancellation
from .._engine.retrying import Retrier, RetryBudget
from ..errors import BackupError, ConfigurationError
from ._s3_errors import translate
from .s3_options import S3Options

__all__ = ["Body", "S3Client", "client_settings"]

T = TypeVar("T")

_SEND_SIZE: Final = 256 << 10
_PLAIN_BODY_SIZE: Final = 1 << 20
"""Up to here bodies are sent as bytes; larger ones would be copied whole by the event loop."""
_SIGNED_BODY_HEADER: Final = "x-amz-checksum-sha256"
_LOOK_SECONDS: Final = 0.1


class Body:
    """The bytes of one request, in the pieces they came in; sent without being joined."""

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._pieces = pieces
        self.size_bytes = sum(len(piece) for piece in pieces)
        self._position = 0

    def __len__(self) -> int:
        return self.size_bytes

    async def __aiter__(self) -> AsyncIterator[bytes | memoryview]:
        for block in self._blocks(0, _SEND_SIZE):
            yield block

    def checksum(self, algorithm: str | None) -> dict[str, str]:
        """Return the parameter that lets the store refuse other bytes than these."""
        if algorithm is None:
            return {}
        if algorithm == "crc32":
            value = 0
            for piece in self._pieces:
                value = zlib.crc32(piece, value)
            return {"ChecksumCRC32": base64.b64encode(value.to_bytes(4, "big")).decode()}
        digest = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")
        for piece in self._pieces:
            digest.update(piece)
        name = "ContentMD5" if algorithm == "md5" else "ChecksumSHA256"
        return {name: base64.b64encode(digest.digest()).decode()}

    def sendable(self) -> Body | bytes:
        """Return what the client library is given."""
        return b"".join(self._pieces) if self.size_bytes <= _PLAIN_BODY_SIZE else self

    # A file, for the client library: it asks for these when it signs a body or sends it again.

    def read(self, size: int = -1) -> bytes:
        """Return up to *size* bytes from the position."""
        end = self.size_bytes if size < 0 else min(self.size_bytes, self._position + size)
        parts: list[bytes | memoryview] = []
        for block in self._blocks(self._position, _SEND_SIZE):
            if self._position >= end:
                break
            part = block[: end - self._position]
            self._position += len(part)
            parts.append(part)
        return b"".join(parts)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position."""
        self._position = offset + (0, self._position, self.size_bytes)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def _blocks(self, start: int, size: int) -> Iterator[bytes | memoryview]:
        pending: list[bytes | memoryview] = []
        held = 0
        for whole in self._pieces:
            piece = memoryview(whole)
            if start >= len(piece):
                start -= len(piece)
                continue
            piece = piece[start:]
            start = 0
            if held + len(piece) < size:
                pending.append(piece)
                held += len(piece)
                continue
            if held:
                yield b"".join(pending)
                pending, held = [], 0
            for offset in range(0, len(piece), size):
                yield piece[offset : offset + size]
        if held:
            yield b"".join(pending)


def client_settings(options: S3Options, given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the arguments of an s3fs file system: *given*, and what the library needs where nothing is said.

    Repeating is ours, since a request that creates something must be looked into first.
    """
    settings = {
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "max_pool_connections": max(16, 4 * options.concurrency),
        "connect_timeout": 10,
        "read_timeout": 60,
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        **given.get("config_kwargs", {}),
    }
    return {**given, "config_kwargs": settings}


class S3Client:
    """
    Calls of one bucket. Threads may share it; every call blocks its thread, and none blocks another.

    Args:
        filesystem: Of s3fs, not asynchronous.
        bucket: Its name.
        options: For the number of attempts.
        owned: Whether `close` ends the file system's session.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        filesystem: S3FileSystem,
        bucket: str,
        options: S3Options,
        *,
        owned: bool,
        sleep: Callable[[float], None],
    ) -> None:
        if filesystem.asynchronous:
            raise ConfigurationError(
                "an asynchronous s3fs file system cannot be used from threads",
                kind="bad_option",
                hint="make it without asynchronous=True",
            )
        self._fs = filesystem
        self._bucket = bucket
        self._owned = owned
        self._sleep = sleep
        self._policy = options.retry
        self._budget = RetryBudget()
        self._lock = threading.Lock()
        self._prepared: Any = None

    @property
    def endpoint(self) -> str:
        """The address requests go to."""
        self._session()
        return str(self._fs.s3.meta.endpoint_url)

    def close(self) -> None:
        """End the session if it is ours; a later call begins a new one."""
        creator = getattr(self._fs, "_s3creator", None)
        if self._owned and creator is not None:
            S3FileSystem.close_session(self._fs.loop, creator)

    def call(
        self, method: str, doing: str, *, cancellation: Cancellation | None = None, **parameters: Any
    ) -> Mapping[str, Any]:
        """Send a request, again when it failed for a passing reason, and return the answer."""
        return self.retrying(lambda: self.once(method, doing, cancellation=cancellation, **parameters), cancellation)

    def retrying(self, attempt: Callable[[], T], cancellation: Cancellation | None = None) -> T:
        """Repeat *attempt* while it fails for a passing reason."""
        sleep = self._sleep if cancellation is None else _either(cancellation, self._sleep)
        retrier = Retrier(policy=self._policy, budget=self._budget, sleep=sleep, random=random.random)
        return retrier.call(lambda _number: attempt(), on_retry=lambda *_: None)

    def once(
        self, method: str, doing: str, *, cancellation: Cancellation | None = None, **parameters: Any
    ) -> Mapping[str, Any]:
        """Send a request once."""

        async def send() -> Mapping[str, Any]:
            answer: Mapping[str, Any] = await (await self._bound(method, parameters))
            return answer

        answer: Mapping[str, Any] = self._run(send, doing, cancellation)
        return answer

    def get(self, doing: str, **parameters: Any) -> tuple[bytes, Mapping[str, Any]]:
        """Send a GET and return its body with the answer, again when either failed for a passing reason."""

        async def fetch() -> tuple[bytes, Mapping[str, Any]]:
            answer = await (await self._bound("get_object", parameters))
            async with answer["Body"] as stream:
                data: bytes = await stream.read()
            return data, answer

        def attempt() -> tuple[bytes, Mapping[str, Any]]:
            found: tuple[bytes, Mapping[str, Any]] = self._run(fetch, doing, None)
            return found

        return self.retrying(attempt)

    async def _bound(self, method: str, parameters: Mapping[str, Any]) -> Awaitable[Any]:
        await self._fs.set_session()
        client = await self._fs.get_s3(self._bucket)
        if client is not self._prepared:
            for operation in ("PutObject", "UploadPart"):
                client.meta.events.register(f"before-sign.s3.{operation}", _lighten, unique_id=f"ktb-{operation}")
            self._prepared = client
        wanted = {**self._fs.s3_additional_kwargs, **self._fs.req_kw}
        function = getattr(client, method)
        defaults = self._fs._filter_kwargs(function, wanted)  # noqa: SLF001 - the vendor has no public name for it
        if "Metadata" in defaults and "Metadata" in parameters:
            parameters = {**parameters, "Metadata": {**defaults["Metadata"], **parameters["Metadata"]}}
        call: Awaitable[Any] = function(**{**defaults, "Bucket": self._bucket, **parameters})
        return call

    def _session(self) -> None:
        if self._prepared is None:
            with self._lock:  # s3fs would make one session per thread
                try:
                    self._fs.connect()
                except Exception as error:
                    raise translate(error, f"connecting to s3://{self._bucket}", secrets=self._secrets()) from error

    def _run(self, make: Callable[[], Any], doing: str, cancellation: Cancellation | None) -> Any:
        self._session()
        future = asyncio.run_coroutine_threadsafe(make(), self._fs.loop)
        try:
            while not future.done():
                # Woken now and then only for those that may be cancelled.
                concurrent.futures.wait([future], timeout=None if cancellation is None else _LOOK_SECONDS)
                if cancellation is not None:
                    cancellation.check()
            return future.result()
        except BackupError:
            raise
        except Exception as error:
            raise translate(error, doing, secrets=self._secrets()) from error
        finally:
            future.cancel()  # does nothing to one that is done

    def _secrets(self) -> tuple[str, ...]:
        return tuple(str(text) for text in (self._fs.secret, self._fs.token) if text)


def _either(cancellation: Cancellation, sleep: Callable[[float], None]) -> Callable[[float], None]:
    def wait(seconds: float) -> None:
        cancellation.check()
        sleep(seconds)
        cancellation.check()

    return wait


def _lighten(request: Any, **_facts: Any) -> None:
    """
    Spare a request whose checksum is among the signed headers two things.

    A second SHA-256 over the body by the signer, on the thread that all requests share; and the wait for
    ``100 Continue``, which costs a round trip and hangs at stores that do not know it.
    """
    if not isinstance(request.data, Body):
        return
    if _SIGNED_BODY_HEADER in request.headers:
        config = request.context["client_config"]
        settings = {**(config.s3 or {}), "payload_signing_enabled": False}
        request.context["client_config"] = config.merge(type(config)(s3=settings))
    if "Expect" in request.headers:
        del request.headers["Expect"]
