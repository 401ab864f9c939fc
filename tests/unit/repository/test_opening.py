"""Frames handed out in the order of uses: each is opened once, and again only when it could not be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from knowtation_backup.repository import opening
from knowtation_backup.repository.opening import FrameSupply
from knowtation_backup.repository.tables import FrameRef

_CONTENT = 100


class _Reader:
    def __init__(self) -> None:
        self.opened: Counter[int] = Counter()

    def contents(self, frames: Sequence[FrameRef]) -> list[bytes]:
        self.opened.update(frame.number for frame in frames)
        return [bytes([frame.number]) * _CONTENT for frame in frames]


def test_what_could_not_be_kept_is_read_again_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_CACHED_BYTES", 30 * _CONTENT)
    frames = [FrameRef(bytes(32), number, number * 1000, 1000, 1) for number in range(200)]
    order = [*frames[:100], frames[0], *frames[100:], *frames[1:100]]  # more is to be used again than is kept
    reader = _Reader()
    supply = FrameSupply(reader, order, workers=2)  # type: ignore[arg-type]  # of a reader, this is what it uses
    assert [supply.get(frame)[0] for frame in order] == [frame.number for frame in order]
    supply.close()
    assert reader.opened[0] == 2
    assert {reader.opened[frame.number] for frame in frames[100:]} == {1}
    assert max(reader.opened.values()) == 2
