"""The shipped JSON Schema of format 4 describes what we write."""

from __future__ import annotations

import importlib.resources
from typing import Any

import jsonschema
import pytest

from knowtation_backup._engine.canonical import dumps, loads
from knowtation_backup.exports.convert import full_export
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.hub.schema import unparseable_proposal


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    files = importlib.resources.files("knowtation_backup.exports")
    schema = loads((files / "schema" / "operator-full-export-v4.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_what_is_written_is_valid(full: dict[str, Any], validator: jsonschema.Draft202012Validator) -> None:
    full["users"][0]["proposals"].append(unparseable_proposal(b"{broken", proposal_id="x", stub={}))
    full["users"][0]["proposals"].append({"proposal_id": "y", "evaluation_waiver": None, "suggested_labels": ["a"]})
    value = loads(b"".join(full_export(ExportReader([dumps(full)]))))
    validator.validate(value)
    validator.validate({**value, "users": [], "unknown": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 3},
        {"kind": "x"},
        {"exported_at": "2026-04-08T15:30:22Z"},
        {"users": None},
        {"users": [{"user_id": "u", "vaults": []}]},
        {"users": [{"user_id": "", "vaults": [], "proposals": []}]},
        {"users": [{"user_id": "u", "vaults": [{"vault_id": "v", "notes": [{"path": "a"}]}], "proposals": []}]},
        {"users": [{"user_id": "u", "vaults": [], "proposals": [{"proposal_id": "p", "status": 1}]}]},
        {"users": [{"user_id": "u", "vaults": [], "proposals": [{"path": "p"}]}]},
    ],
)
def test_other_shapes_are_not(
    full: dict[str, Any], validator: jsonschema.Draft202012Validator, change: dict[str, Any]
) -> None:
    assert not validator.is_valid({**full, **change})
