"""Reports: exit codes, text for people, values for JSON."""

import datetime as dt
import json
from pathlib import Path

import pytest

from knowtation_backup.errors import ConfigurationError, IntegrityError
from knowtation_backup.model.blobs import BlobRef
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.model.manifest import Manifest
from knowtation_backup.model.reports import (
    BackupReport,
    Finding,
    Outcome,
    SideFile,
    VerifyLevel,
    VerifyReport,
    jsonable,
)

MOMENT = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
FINDING = Finding(code="digest_mismatch", where="a.json", message="stored bytes differ")


def _backup(*, complete: bool) -> BackupReport:
    manifest = Manifest(
        artifact=BlobRef(key="a.json", size_bytes=7, sha256="ab" * 32),
        kind="k",
        source_id="s",
        taken_at=MOMENT,
        finished_at=MOMENT,
        complete=complete,
        counts={"tenants": 2, "failed_tenants": 0},
    )
    return BackupReport(
        manifest=manifest, payload_bytes=9, payload_sha256="cd" * 32, duration_seconds=1.25, warnings=(FINDING,)
    )


def _verify(*findings: Finding) -> VerifyReport:
    return VerifyReport(
        archive_id="a.json", level=VerifyLevel.CONTENT, verified_at=MOMENT, bytes_read=7, findings=findings
    )


def test_backup_outcomes() -> None:
    assert (_backup(complete=True).outcome, _backup(complete=True).exit_code) == (Outcome.OK, 0)
    assert (_backup(complete=False).outcome, _backup(complete=False).exit_code) == (Outcome.PARTIAL, 3)


def test_backup_text_names_what_matters() -> None:
    text = str(_backup(complete=False))
    for expected in ("INCOMPLETE archive a.json", "2 tenants", "0 failed tenants", "9 bytes raw, 7 stored", "1.2 s"):
        assert expected in text
    assert "warning digest_mismatch at a.json" in text


def test_verify_outcomes_and_raising() -> None:
    _verify().raise_for_findings()
    assert _verify().ok
    assert _verify().exit_code == 0
    assert _verify(FINDING).exit_code == 4
    with pytest.raises(IntegrityError, match=r"digest_mismatch at a\.json: stored bytes differ"):
        _verify(FINDING).raise_for_findings()
    assert "1 finding(s)" in str(_verify(FINDING))


def test_jsonable_reaches_every_level_and_leaves_hidden_fields_out() -> None:
    value = jsonable({"report": _backup(complete=True), "side": SideFile(name="raw", content=b"secret"), "t": (1, 2)})
    text = json.dumps(value)
    assert '"taken_at": "2026-04-08T00:00:00.000Z"' in text
    assert "secret" not in text
    assert value["t"] == [1, 2]
    assert jsonable(ConfigurationError("bad", hint="fix it")) == {
        "kind": "configuration",
        "message": "bad",
        "hint": "fix it",
    }
    assert jsonable(VerifyLevel.PRESENCE) == "presence"


def test_jsonable_writes_ids_places_and_times_as_people_do() -> None:
    ids = (Principal(b"\x04"), SnapshotId(b"\x00\xff"))
    value = jsonable({"ids": ids, "hash": b"\xab", "place": Path("a") / "b", "overdue": dt.timedelta(hours=1)})
    assert value == {"ids": ["2vxsx-fae", "00ff"], "hash": "ab", "place": str(Path("a") / "b"), "overdue": 3600.0}
