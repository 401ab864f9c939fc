"""
Payloads with the content root or the error kind they must give in every release.

The roots were computed by an independent program from the description in `records`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from knowtation_backup.errors import BackupError
from knowtation_backup.exports.convert import full_export
from knowtation_backup.exports.reader import ExportReader

GOLDEN = sorted((Path(__file__).parents[2] / "golden" / "payloads").glob("*.json"))


def test_there_are_vectors() -> None:
    assert len(GOLDEN) >= 15


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_vector(path: Path) -> None:
    vector = json.loads(path.read_bytes())
    payload = vector["payload"].encode()
    user_id = vector.get("user_id", "")
    if vector["outcome"] != "ok":
        with pytest.raises(BackupError) as caught:
            ExportReader([payload], user_id=user_id).read_all()
        assert caught.value.kind == vector["outcome"]
        return
    reader = ExportReader([payload], user_id=user_id).read_all()
    assert (reader.content_root, dict(reader.counts)) == (vector["content_root"], vector["counts"])
    written = full_export(ExportReader([payload], user_id=user_id), exported_at="x")
    assert ExportReader(written).read_all().content_root == vector["content_root"]
