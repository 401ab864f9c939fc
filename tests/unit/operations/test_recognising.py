"""What files are is seen from their first bytes, not from their names."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from knowtation_backup.codecs.age import AgeCodec
from knowtation_backup.codecs.encv1 import EncV1Codec
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Ktb2Codec
from knowtation_backup.contracts import Codec
from knowtation_backup.operations.recognising import MAX_SEEN_BYTES, Form, Recognised, recognise

KEY = EncryptionKey.generate()
EXPORT = b'{"format_version":4,"kind":"knowtation-operator-full-export","exported_at":"x","users":[]}'
VAULT = b'{"format_version":2,"kind":"knowtation-operator-vault-export","notes":[' + b"[]," * MAX_SEEN_BYTES
AGENT = {"version": "1.1", "agentName": "bot", "timestamp": "x", "components": ["config"], "checksums": {"a": "b"}}
BUNDLE = {"format": "agentvault-thoughtform-bundle-v1", "createdAt": "x", "manifest": AGENT, "entries": {}}


def tar(*, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if compressed else "w") as archive:
        archive.addfile(tarfile.TarInfo("./notes.db"))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.json", "{}")
    return file.getvalue()


def sealed(codec: Codec) -> bytes:
    return b"".join(codec.seal([EXPORT]))


@pytest.mark.parametrize(
    ("data", "form", "kind"),
    [
        (b"", Form.EMPTY, ""),
        (EXPORT, Form.JSON, "knowtation-operator-full-export"),
        (b"\xef\xbb\xbf \n" + EXPORT, Form.JSON, "knowtation-operator-full-export"),
        (EXPORT[:60], Form.JSON, "knowtation-operator-full-export"),
        (VAULT, Form.JSON, "knowtation-operator-vault-export"),
        (b'{"format_version":1,"exported_at":"x","proposals":[]}', Form.JSON, "knowtation-hosted-backup"),
        (b'{"users":[' + b"0," * MAX_SEEN_BYTES, Form.JSON, ""),
        (b"{", Form.JSON, ""),
        (b'{"format_version":4,"kind":"other"}', Form.JSON, ""),
        (b'{"type":"export","exported_at":"x"}\n', Form.RECORDS, "knowtation-backup-records"),
        (b'{"type":"tenant","user_id":"x"}\n', Form.RECORDS, "knowtation-backup-records"),
        (json.dumps(AGENT, indent=2).encode(), Form.JSON, "agentvault-manifest"),
        (json.dumps(BUNDLE).encode(), Form.JSON, "agentvault-thoughtform-bundle"),
        (b'{"format":"agentvault-full-backup-v1"', Form.JSON, "agentvault-full-backup"),
        (b'{"format":"agentvault-hypervault-snapshot-v1"', Form.JSON, "agentvault-account-snapshot"),
        (b'{"format":"agentvault-arweave-bundle-v1"', Form.JSON, "agentvault-arweave-bundle"),
        (b"[1,2]", Form.UNKNOWN, ""),
        (b"hello", Form.UNKNOWN, ""),
        (tar(), Form.TAR, ""),
        (tar(compressed=True), Form.GZIP, ""),
        (gzip.compress(EXPORT), Form.GZIP, ""),
        (lzma.compress(EXPORT), Form.XZ, ""),
        (zstandard.compress(EXPORT), Form.ZSTD, ""),
        (bz2.compress(EXPORT), Form.UNKNOWN, ""),
        (zipped(), Form.ZIP, ""),
        (sealed(Ktb1Codec(KEY)), Form.KTB1, ""),
        (sealed(Ktb2Codec(seal_to=KEY)), Form.KTB2, ""),
        (sealed(EncV1Codec(Passphrase(text="correct horse"))), Form.ENC_V1, ""),
        (b"age-encryption.org/v1\n-> X25519 x\n", Form.AGE, ""),
        (b"-----BEGIN AGE ENCRYPTED FILE-----\n", Form.AGE, ""),
    ],
)
def test_files_are_recognised(data: bytes, form: Form, kind: str) -> None:
    assert recognise(data) == Recognised(form=form, kind=kind)


def test_names_of_codecs_are_those_of_the_codecs() -> None:
    for codec in (Ktb1Codec(KEY), Ktb2Codec(seal_to=KEY), EncV1Codec(Passphrase(text="correct horse"))):
        found = recognise(sealed(codec))
        assert (found.codec, found.sealed, found.compressed) == (codec.spec.name, True, False)
    assert Recognised(form=Form.AGE).codec == AgeCodec(open_with=()).spec.name
    assert (recognise(tar(compressed=True)).codec, recognise(EXPORT).codec) == ("gzip", "")


@settings(max_examples=200)
@given(data=st.binary(max_size=400))
@example(b'{"' + b"[" * 400)
@example(b'{"a":1,"a":2}')
@example(b'{"\xff":1}')
@example(b'{"a":' + b"1" * 5000)
def test_no_bytes_are_too_strange(data: bytes) -> None:
    assert recognise(data).form in Form
    assert recognise(b"{" + data).form in {Form.JSON, Form.RECORDS, Form.ENC_V1, Form.TAR}
