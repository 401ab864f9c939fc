"""Manifests: canonical both ways, unknown fields kept, damage named."""

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.errors import BackupError, ConfigurationError, ManifestError, UnsupportedFormatError
from knowtation_backup.model.blobs import BlobRef
from knowtation_backup.model.manifest import (
    CodecSpec,
    Manifest,
    archive_of,
    check_tags,
    manifest_key,
    side_key,
)

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, 123_000, tzinfo=dt.UTC)
MANIFEST = Manifest(
    artifact=BlobRef(key="operator-full-export-20260408T153022Z.json.enc", size_bytes=7, sha256="ab" * 32),
    side=(BlobRef(key="side/x/details.json.enc", size_bytes=3, sha256="cd" * 32),),
    kind="knowtation-operator-full-export",
    source_id="rrkah-fqaaa-aaaaa-aaaaq-cai",
    taken_at=MOMENT,
    finished_at=MOMENT,
    complete=True,
    codecs=(CodecSpec(name="ktb1", key_ids=("0123",)),),
    counts={"tenants": 2, "notes": 5},
    generator="knowtation-backup 0.1.0",
)


def test_bytes_are_canonical_and_read_back_equal() -> None:
    data = MANIFEST.to_bytes()
    assert data.endswith(b"}\n")
    assert b": " not in data
    assert Manifest.from_bytes(data) == MANIFEST
    assert Manifest.from_bytes(data).to_bytes() == data


def test_unknown_fields_survive_a_rewrite() -> None:
    value = json.loads(MANIFEST.to_bytes())
    value["replicas"] = ["eu", "us"]
    rewritten = Manifest.from_bytes(json.dumps(value).encode()).to_bytes()
    assert json.loads(rewritten)["replicas"] == ["eu", "us"]


def test_a_newer_version_is_refused_by_name() -> None:
    value = json.loads(MANIFEST.to_bytes()) | {"format_version": 2}
    with pytest.raises(UnsupportedFormatError, match="format version 2"):
        Manifest.from_bytes(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("format", "something-else"),
        ("artifact", {"key": "../escape", "size_bytes": 1, "sha256": "ab" * 32}),
        ("artifact", {"key": "a", "size_bytes": -1, "sha256": "ab" * 32}),
        ("artifact", {"key": "a", "size_bytes": 1, "sha256": "AB" * 32}),
        ("artifact", None),
        ("side", {}),
        ("complete", "yes"),
        ("complete", 1),
        ("taken_at", "yesterday"),
        ("taken_at", "2026-04-08T15:30:22"),
        ("counts", {"notes": 1.5}),
        ("codecs", [{"key_id": "x"}]),
        ("kind", None),
    ],
)
def test_every_wrong_field_is_a_manifest_error(field: str, bad: Any) -> None:
    value = json.loads(MANIFEST.to_bytes()) | {field: bad}
    if field == "side":
        value["side"] = 5
    with pytest.raises(ManifestError):
        Manifest.from_bytes(json.dumps(value).encode())


@pytest.mark.parametrize("field", sorted(json.loads(MANIFEST.to_bytes()).keys() - {"tags"}))
def test_every_missing_field_is_a_manifest_error(field: str) -> None:
    value = json.loads(MANIFEST.to_bytes())
    del value[field]
    with pytest.raises(ManifestError):
        Manifest.from_bytes(json.dumps(value).encode())


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_escape_as_anything_else(data: bytes) -> None:
    with pytest.raises(BackupError):
        Manifest.from_bytes(data)


@given(cut=st.integers(0, len(MANIFEST.to_bytes()) - 3))
def test_a_cut_manifest_is_a_manifest_error(cut: int) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(MANIFEST.to_bytes()[:cut])


def test_side_files_lie_where_no_existing_glob_finds_them() -> None:
    assert manifest_key("operator-full-export-x.json") == "side/operator-full-export-x.json/manifest.json"
    assert side_key("a", "details.json") == "side/a/details.json"


def test_a_manifest_written_before_a_codec_could_have_several_keys_reads_the_same() -> None:
    value = json.loads(MANIFEST.to_bytes())
    value["codecs"] = [{"name": "ktb1", "key_id": "0123"}, {"name": "zstd", "key_id": None}]
    del value["tags"]
    read = Manifest.from_bytes(json.dumps(value).encode())
    assert read.codecs == (CodecSpec(name="ktb1", key_ids=("0123",)), CodecSpec(name="zstd"))
    assert read.tags == ()


@pytest.mark.parametrize("field", ["source_id", "kind", "a field of a newer writer"])
def test_a_manifest_that_could_not_be_written_again_is_damaged(field: str) -> None:
    value = json.loads(MANIFEST.to_bytes()) | {field: "half a character: \ud800"}
    with pytest.raises(ManifestError, match="UnicodeEncodeError"):
        Manifest.from_bytes(json.dumps(value).encode())
    value[field] = "a whole one: \U0001f600"
    assert b"\\ud83d\\ude00" in json.dumps(value).encode()
    assert "\U0001f600".encode() in Manifest.from_bytes(json.dumps(value).encode()).to_bytes()


def test_one_text_is_no_list_of_tags() -> None:
    with pytest.raises(ConfigurationError, match="'pre-upgrade' is no list of tags") as caught:
        check_tags("pre-upgrade")
    assert (caught.value.kind, caught.value.hint) == ("bad_tag", "pass a list")
    with pytest.raises(ConfigurationError, match="is not a tag"):
        check_tags([["a"]])  # type: ignore[list-item] # the point


def test_tags_are_sorted_once_and_checked() -> None:
    assert check_tags(["pre-upgrade", "a", "a"]) == ("a", "pre-upgrade")
    for bad in ("", "a b", "ä", "x" * 65, "a/b"):
        with pytest.raises(ConfigurationError):
            check_tags([bad])
    value = json.loads(MANIFEST.to_bytes()) | {"tags": ["a b"]}
    with pytest.raises(ManifestError):
        Manifest.from_bytes(json.dumps(value).encode())


def test_every_blob_of_an_archive_is_known_to_be_its_own_by_the_key() -> None:
    artifact = "operator-full-export-20260408T153022Z.json.enc"
    assert archive_of(artifact) == artifact
    assert archive_of(side_key(artifact, "details.json")) == artifact
    assert archive_of(side_key(artifact, "marks/x.json")) == artifact
    assert archive_of(manifest_key(artifact)) == artifact
