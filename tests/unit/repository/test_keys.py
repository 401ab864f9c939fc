"""Keys of a repository: text and files of writer keys, generations, and what founds a repository."""

from __future__ import annotations

import stat
from pathlib import Path

import attrs
import pytest

from knowtation_backup.codecs.keys import KeyKind, PrivateKey
from knowtation_backup.errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    NoMatchingKeyError,
    TamperedError,
)
from knowtation_backup.repository.keys import MAX_GENERATION, ReadKeys, WriterKey

KINDS = pytest.mark.parametrize("kind", KeyKind)


@KINDS
def test_writer_keys_survive_text(kind: KeyKind) -> None:
    key = ReadKeys.generate(kind).rotated(kind).writer_key
    text = key.to_text()
    assert text.startswith(f"kb-writer-{kind}:")
    assert WriterKey.from_text(f"  {text}\n") == key
    assert key.generation == 2


def test_a_mistyped_writer_key_is_refused_and_not_repeated() -> None:
    text = ReadKeys.generate(KeyKind.X25519).writer_key.to_text()
    start = text.index(":") + 1
    for at in (*range(start, len(text), 5), 3):
        changed = text[:at] + ("B" if text[at] != "B" else "C") + text[at + 1 :]
        with pytest.raises(ConfigurationError) as caught:
            WriterKey.from_text(changed)
        assert caught.value.kind == "bad_key_text"
        assert changed[start : start + 20] not in str(caught.value)
    for cut in (text[:-1], text[: start + 10], "", "kb-writer-x25519:AAAA"):
        with pytest.raises(ConfigurationError):
            WriterKey.from_text(cut)


def test_texts_of_other_halves_are_refused() -> None:
    pair = PrivateKey.generate(KeyKind.X25519)
    for text in (pair.to_text(), pair.public_key.to_text()):
        with pytest.raises(ConfigurationError, match=r"it is a (private|public) one"):
            WriterKey.from_text(text)
    with pytest.raises(ConfigurationError, match="it is a writer one"):
        PrivateKey.from_text(ReadKeys.generate(KeyKind.X25519).writer_key.to_text())


def test_key_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    key, other = (ReadKeys.generate(KeyKind.X25519).writer_key for _ in range(2))
    path = tmp_path / "new" / "writer.key"
    key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert WriterKey.load(path) == key
    before = path.read_bytes()
    key.save(path)
    with pytest.raises(BlobExistsError) as caught:
        other.save(path)
    assert other.id_key.hex() not in str(caught.value)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["writer.key"]


def test_exposed_missing_and_foreign_key_files(tmp_path: Path) -> None:
    path = tmp_path / "writer.key"
    with pytest.raises(BlobNotFoundError):
        WriterKey.load(path)
    key = ReadKeys.generate(KeyKind.X25519).writer_key
    key.save(path)
    path.chmod(0o640)
    for use in (WriterKey.load, key.save):
        with pytest.raises(ConfigurationError) as caught:
            use(path)
        assert caught.value.kind == "key_file_exposed"
    private = tmp_path / "private.key"
    PrivateKey.load_or_create(private)
    with pytest.raises(ConfigurationError) as caught:
        WriterKey.load(private)
    assert caught.value.kind == "bad_key_text"


@KINDS
def test_rotation_keeps_what_opens_and_the_id(kind: KeyKind) -> None:
    first = ReadKeys.generate(kind)
    second = first.rotated(kind)
    assert second.found_repository
    assert second.repository_id == first.repository_id
    sealed = {number: keys.writer_key.seal(b"key", info=b"i") for number, keys in ((1, first), (2, second))}
    assert [second.unseal(each, info=b"i", generation=number) for number, each in sealed.items()] == [b"key"] * 2
    with pytest.raises(NoMatchingKeyError):
        first.unseal(sealed[2], info=b"i", generation=2)
    with pytest.raises(TamperedError):
        second.unseal(sealed[1], info=b"i", generation=2)


def test_rotation_ends_somewhere() -> None:
    keys = ReadKeys.generate(KeyKind.X25519)
    last = attrs.evolve(keys, private_keys={**keys.private_keys, MAX_GENERATION: PrivateKey.generate(KeyKind.X25519)})
    with pytest.raises(ConfigurationError):
        last.rotated(KeyKind.X25519)


def test_an_id_commits_to_all_secrets() -> None:
    keys = ReadKeys.generate(KeyKind.X25519)
    assert keys.found_repository
    for change in (
        {"id_key": bytes(32)},
        {"index_key": bytes(32)},
        {"repository_id": bytes(16)},
        {"private_keys": {1: PrivateKey.generate(KeyKind.X25519)}},
        {"private_keys": {2: keys.private_keys[1]}},
    ):
        assert not attrs.evolve(keys, **change).found_repository


def test_a_writer_key_opens_nothing_and_shows_nothing() -> None:
    keys = ReadKeys.generate(KeyKind.X25519)
    key = keys.writer_key
    with pytest.raises(NoMatchingKeyError):
        key.unseal(key.seal(b"key", info=b"i"), info=b"i", generation=1)
    shown = repr(key) + repr(keys)
    for secret in (key.id_key, key.index_key, keys.private_keys[1].raw):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
