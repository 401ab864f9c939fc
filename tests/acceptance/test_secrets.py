"""A planted secret appears in no log, `repr`, error, event, report or manifest."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import GATEWAY_SECRET, KEY_HEX, OPERATOR_KEY, Stage, Vault, connect

from knowtation_backup import (
    BackupError,
    EncryptionKey,
    Event,
    FsspecSink,
    Ktb1Codec,
    OperatorExporter,
    Pipeline,
    VerifyLevel,
    jsonable,
)
from knowtation_backup.sandbox import Answer, ResetBeforeExecution, Truncate

SECRETS = {
    "operator key": OPERATOR_KEY,
    "gateway secret": GATEWAY_SECRET,
    "encryption key": KEY_HEX,
    "encryption key, raw": bytes.fromhex(KEY_HEX).decode("latin-1"),
    "encryption key, repr of raw": repr(bytes.fromhex(KEY_HEX))[2:40],
}


def _assert_silent(text: str, where: str) -> None:
    for name, secret in SECRETS.items():
        assert secret.lower() not in text.lower(), f"the {name} appears in {where}"


@pytest.fixture
def observed(caplog: pytest.LogCaptureFixture) -> Iterator[list[Event]]:
    """Collect events, and every log line of every library at the lowest level."""
    events: list[Event] = []
    with caplog.at_level(logging.DEBUG):
        yield events
    _assert_silent(repr(events) + json.dumps(jsonable(events), default=repr), "events")
    _assert_silent(caplog.text + repr([record.__dict__ for record in caplog.records]), "logs")


def test_a_good_run_is_silent(stage: Stage, tmp_path: Path, observed: list[Event]) -> None:
    with connect(stage.url, observer=observed.append) as client:
        exporter = OperatorExporter(client)
        codec = Ktb1Codec(EncryptionKey.from_hex(KEY_HEX))
        pipeline = Pipeline(source=exporter, sink=FsspecSink(tmp_path), codec=codec, observer=observed.append)
        report = pipeline.backup()
        verdict = pipeline.verify(level=VerifyLevel.CONTENT)
        for part in (client, exporter, codec, pipeline, pipeline.sink, EncryptionKey.from_hex(KEY_HEX), stage.network):
            _assert_silent(repr(part) + str(part), f"repr of {type(part).__name__}")
        _assert_silent(repr(client.stats) + repr(client.preflight()), "statistics or preflight")
    for value in (report, verdict, pipeline.list(), pipeline.details()):
        _assert_silent(repr(value) + str(value) + json.dumps(jsonable(value)), type(value).__name__)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            _assert_silent(path.read_bytes().decode("latin-1"), f"stored file {path.name}")
    assert len(observed) > 2, "the test must see events to mean anything"


@pytest.mark.parametrize(
    "action",
    [
        Answer(status=403, text=f"you sent {OPERATOR_KEY} and {GATEWAY_SECRET}"),
        Answer(status=500, text=f"you sent {OPERATOR_KEY} and {GATEWAY_SECRET}"),
        Answer(status=200, text=f"<html>{OPERATOR_KEY} {GATEWAY_SECRET}"),
        Answer(status=302, text=f"{OPERATOR_KEY} {GATEWAY_SECRET}"),
        ResetBeforeExecution(),
        Truncate(keep=0.5),
    ],
    ids=["forbidden", "server-error", "not-json", "redirect", "reset", "truncated"],
)
@pytest.mark.parametrize("path", ["/operator/export", "/vaults", "/proposals"])
def test_a_failing_hub_is_told_without_secrets(
    stage: Stage, vault: Vault, observed: list[Event], action: object, path: str
) -> None:
    """Even a hub or proxy that repeats our headers cannot put them into our errors."""
    stage.faults.add(action, path_contains=path)  # type: ignore[arg-type]  # parametrised over all kinds of action
    try:
        with connect(stage.url, observer=observed.append) as client, pytest.raises(BackupError) as caught:
            vault.pipeline(client).backup()
    finally:
        stage.faults.clear()
    error = caught.value
    _assert_silent("".join(traceback.format_exception(error)), "the traceback")
    _assert_silent(repr(error) + str(error) + repr(error.context) + json.dumps(jsonable(error)), "the error")
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "knowtation_backup" not in frame.f_code.co_filename:
            continue
        assert error.__cause__ is None or not hasattr(error.__cause__, "request"), "the request holds the headers"


def test_a_wrong_encryption_key_is_not_quoted() -> None:
    for text in (KEY_HEX + "0", KEY_HEX[:-1], KEY_HEX[:-1] + "g"):
        with pytest.raises(BackupError) as caught:
            EncryptionKey.from_hex(text)
        _assert_silent("".join(traceback.format_exception(caught.value)), "the error")
        assert text[:20] not in "".join(traceback.format_exception(caught.value))
