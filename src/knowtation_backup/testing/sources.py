"""`FakeSource`: a source that captures given bytes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ..contracts import Observer, ignore_events
from ..model.events import Event
from ..model.reports import CaptureResult, Finding, SideFile

__all__ = ["FakeCapture", "FakeSource"]


@attrs.frozen(kw_only=True)
class FakeSource:
    """A `BackupSource` without a world behind it; every capture yields the same."""

    payload: tuple[bytes, ...] = (b'{"notes":', b"[]}")
    """The chunks, in order."""
    error: BaseException | None = None
    """Raised instead of ending, after the last chunk."""
    kind: str = "fake"
    name: str = "operator-full-export"
    suffix: str = ".json"
    source_id: str = "fake-hub"
    complete: bool = True
    counts: Mapping[str, int] = attrs.field(factory=lambda: {"tenants": 1, "notes": 2})
    details: Mapping[str, Any] = attrs.field(factory=lambda: {"tenants": [{"user_id": "google:1"}]}, repr=False)
    side_files: tuple[SideFile, ...] = ()
    warnings: tuple[Finding, ...] = ()

    def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> FakeCapture:
        """Begin a capture."""
        return FakeCapture(source=self, taken_at=taken_at, observer=observer)


@attrs.define(kw_only=True)
class FakeCapture:
    """A `Capture` of a `FakeSource`."""

    source: FakeSource
    taken_at: dt.datetime
    observer: Observer
    closed: bool = False
    """Whether the stream was ended, by its reader or by itself."""
    _begun: bool = attrs.field(default=False, init=False)

    @property
    def kind(self) -> str:
        """As the source says."""
        return self.source.kind

    @property
    def name(self) -> str:
        """As the source says."""
        return self.source.name

    @property
    def suffix(self) -> str:
        """As the source says."""
        return self.source.suffix

    @property
    def source_id(self) -> str:
        """As the source says."""
        return self.source.source_id

    def chunks(self) -> Iterator[bytes]:
        """Yield the payload once."""
        assert not self._begun, "a capture is read once"
        self._begun = True
        try:
            for number, chunk in enumerate(self.source.payload, 1):
                yield chunk
                self.observer(Event(name="fake.progress", fields={"chunks": number}))
            if self.source.error is not None:
                raise self.source.error
        finally:
            self.closed = True

    def result(self) -> CaptureResult:
        """Return what the source says was found."""
        assert self.closed, "a result is valid once the chunks are exhausted"
        return CaptureResult(
            complete=self.source.complete,
            counts=self.source.counts,
            details=self.source.details,
            side_files=self.source.side_files,
            warnings=self.source.warnings,
        )
