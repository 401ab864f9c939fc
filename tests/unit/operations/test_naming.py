"""Names that the existing globs match, and names of other tools."""

import datetime as dt
from fnmatch import fnmatch

import pytest

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.operations.naming import ArtifactName, ForeignName, StateArchiveName

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("name", "suffix", "number", "key"),
    [
        ("operator-full-export", ".json", 0, "operator-full-export-20260408T153022Z.json"),
        ("operator-full-export", ".json.enc", 0, "operator-full-export-20260408T153022Z.json.enc"),
        ("operator-full-export", ".json.enc", 1, "operator-full-export-20260408T153022Z-01.json.enc"),
        ("canister-export-a_b_c", ".json", 12, "canister-export-a_b_c-20260408T153022Z-12.json"),
        ("canister-export-x-20200101T000000Z", ".json", 0, "canister-export-x-20200101T000000Z-20260408T153022Z.json"),
        ("canister-export-d", ".jsonl.zst.enc", 123, "canister-export-d-20260408T153022Z-123.jsonl.zst.enc"),
    ],
)
def test_keys_are_made_and_read_back(name: str, suffix: str, number: int, key: str) -> None:
    made = ArtifactName(name=name, taken_at=MOMENT, suffix=suffix, number=number)
    assert made.key == key
    assert ArtifactName.parse(key) == made
    assert fnmatch(key, "operator-full-export-*") or fnmatch(key, "canister-export-*")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "operator-full-export.json",
        "operator-full-export-20260408T153022Z",
        "operator-full-export-20260408T153022.json",
        "operator-full-export-20261308T153022Z.json",
        "operator-full-export-20260408T153022Z-1.json",
        "-20260408T153022Z.json",
        "folder/operator-full-export-20260408T153022Z.json",
        "side/operator-full-export-20260408T153022Z.json/manifest.json",
    ],
)
def test_other_names_are_none(key: str) -> None:
    assert ArtifactName.parse(key) is None


@pytest.mark.parametrize(
    ("name", "suffix"), [("a/b", ".json"), ("", ".json"), ("a", ""), ("a b", ".json"), ("..", ".j")]
)
def test_parts_that_make_no_key_are_refused(name: str, suffix: str) -> None:
    made = ArtifactName(name=name, taken_at=MOMENT, suffix=suffix)
    with pytest.raises(ConfigurationError):
        _ = made.key


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("operator-full-export-20260408T153022Z.json", True),
        ("operator-full-export-20260408T153022Z.json.enc", True),
        ("canister-export-default-20260408T153022Z-01.json", True),
        ("operator-full-export-20260408T153022Z.json.gz", True),
        ("operator-full-export-20260408T153022Z.json.zst.enc", True),
        ("operator-full-export-20260408T153022Z.json.br", True),
        ("operator-full-export-20260408T153022Z.json.xz.age", True),
        ("records-export-20260408T153022Z.ndjson.zst", True),
        ("attestation-export-20260408T153022Z.json", True),
        ("operator-full-export-20260408T153022Z.json.enc.gz", False),
        ("operator-full-export-20260408T153022Z.tgz", False),
        ("operator-full-export-20260408T153022Z.json.part", False),
        ("operator-full-export2-20260408T153022Z.json", False),
        ("holiday-20260408T153022Z.json", False),
    ],
)
def test_names_of_the_knowtation_tools_are_known(key: str, *, known: bool) -> None:
    name = ArtifactName.parse(key)
    assert name is not None
    assert name.is_knowtation is known


@pytest.mark.parametrize(
    ("key", "managed", "stamped"),
    [
        ("km-backup-20260408T153022Z.tgz", True, True),
        ("km-backup-20260408T153022.tgz", True, True),
        ("km-backup-20260408T153022Z.TAR.GZ", True, True),
        ("km-backup-before-upgrade.tar.gz", True, False),
        ("km-backup-.tgz", True, False),
        ("km-backup-20269908T153022Z.tgz", True, False),
        ("backup-20260408T153022Z.tar.gz", False, True),
        ("backup-20260408T153022Z.tgz", False, True),
    ],
)
def test_state_archives(key: str, *, managed: bool, stamped: bool) -> None:
    name = StateArchiveName.parse(key)
    assert name is not None
    assert name.managed is managed
    assert name.taken_at == (MOMENT if stamped else None)


@pytest.mark.parametrize(
    "key",
    [
        "km-backup.tgz",
        "KM-BACKUP-1.tgz",
        "km-backup-1.zip",
        "km-backup-1.tgz.part",
        "x-km-backup-1.tgz",
        "a/km-backup-1.tgz",
    ],
)
def test_look_alikes_are_no_state_archives(key: str) -> None:
    assert StateArchiveName.parse(key) is None


MILLIS = MOMENT.replace(microsecond=678_000)


@pytest.mark.parametrize(
    ("key", "series", "kind", "moment", "managed"),
    [
        (
            "operator-full-export-20260408T153022Z.json",
            "operator-full-export",
            "knowtation-operator-full-export",
            MOMENT,
            False,
        ),
        (
            "canister-export-a_b-20260408T153022Z-01.json.enc",
            "canister-export-a_b",
            "knowtation-operator-vault-export",
            MOMENT,
            False,
        ),
        ("km-backup-20260408T153022Z.tgz", "km-backup", "duskmantle-state", MOMENT, True),
        ("km-backup-by-hand.tgz", "km-backup", "duskmantle-state", None, True),
        ("backup-20260408T153022.tar.gz", "backup", "duskmantle-state", MOMENT, False),
        ("bot-2026-04-08T15-30-22-678Z.json", "bot", "agentvault-manifest", MILLIS, False),
        ("my-bot-2026-04-08T15-30-22-678Z-full.zip", "my-bot", "agentvault-full-backup", MILLIS, False),
        ("bot-2026-04-08T15-30-22-678Z.zip.enc", "bot", "agentvault-encrypted-zip", MILLIS, False),
        (
            "bot-2026-04-08T15-30-22-678Z.thoughtform-bundle.json.gz",
            "bot",
            "agentvault-thoughtform-bundle",
            MILLIS,
            False,
        ),
        ("me.hypervault-snapshot.json.gz", "hypervault-snapshot", "agentvault-account-snapshot", None, False),
        ("archive-1775662222678-0badcafe.json", "archive", "agentvault-archive", MILLIS, False),
        ("20260408_153022.tar.gz", "quri", "quri-backup", MOMENT, False),
    ],
)
def test_names_of_other_tools(key: str, series: str, kind: str, moment: dt.datetime | None, *, managed: bool) -> None:
    name = ForeignName.parse(key)
    assert name is not None
    assert (name.series, name.kind, name.taken_at, name.managed) == (series, kind, moment, managed)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "notes.txt",
        "holiday-20260408T153022Z.json",
        "bot-2026-04-08T15-30-22-678Z.manifest.json",
        "bot-2026-13-08T15-30-22-678Z.json",
        "bot-2026-04-08T15:30:22.678Z.json",
        "-2026-04-08T15-30-22-678Z.json",
        "folder/bot-2026-04-08T15-30-22-678Z.json",
        ".hypervault-snapshot.json.gz",
        "archive-1775662222678-0BADCAFE.json",
        "20261308_153022.tar.gz",
        "20260408_153022.tar",
        "side/operator-full-export-20260408T153022Z.json",
    ],
)
def test_names_that_no_tool_gives(key: str) -> None:
    assert ForeignName.parse(key) is None
