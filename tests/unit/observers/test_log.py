from __future__ import annotations

import logging

import pytest

from knowtation_backup import Event
from knowtation_backup.observers.log import LogObserver


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("export.progress", logging.DEBUG),
        ("export.finished", logging.INFO),
        ("hub.retry", logging.WARNING),
        ("export.tenant_failed", logging.ERROR),
    ],
)
def test_levels(caplog: pytest.LogCaptureFixture, name: str, level: int) -> None:
    caplog.set_level(logging.DEBUG)
    event = Event(name=name, fields={"notes": 3, "user_id": "google:1", "eta_seconds": None})
    LogObserver()(event)
    (record,) = caplog.records
    assert (record.levelno, record.name) == (level, "knowtation_backup")
    assert record.getMessage() == f"{name} notes=3 user_id=google:1 eta_seconds=None"
    assert record.__dict__["event"] == event


@pytest.mark.parametrize("text", ["a b", "x\nexport.finished complete=True", 'say "hi"', "", "a=b", "é\x1b", "\ud800"])
def test_texts_cannot_forge_lines_or_fields(caplog: pytest.LogCaptureFixture, text: str) -> None:
    LogObserver(levels={"x": logging.WARNING})(Event(name="x", fields={"user_id": text, "n": 1}))
    (line,) = caplog.messages
    assert line.isprintable()
    assert line.count("user_id=") == 1
    assert line.startswith('x user_id="')
    assert line.endswith('" n=1')


def test_own_logger_and_level(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("elsewhere")
    logger.setLevel(logging.ERROR)
    LogObserver(logger=logger)(Event(name="hub.retry"))
    assert not caplog.records
    LogObserver(logger=logger, levels={"hub.retry": logging.CRITICAL})(Event(name="hub.retry"))
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
