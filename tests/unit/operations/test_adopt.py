"""Files of other tools become archives, untouched, or stay what they were."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup.codecs.age import AgeCodec, AgeIdentity
from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.encv1 import EncV1Codec
from knowtation_backup.codecs.keyring import Keyring
from knowtation_backup.codecs.keys import EncryptionKey, KeyKind, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Ktb2Codec
from knowtation_backup.codecs.signing import SigningKey
from knowtation_backup.contracts import ArchiveSink, Codec
from knowtation_backup.errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    DecryptionError,
    IntegrityError,
    NoMatchingKeyError,
    SinkPermissionError,
    SinkUnavailableError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.exports.convert import records_export
from knowtation_backup.exports.exporter import vault_tag
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.exports.unwrap import UnwrapLimits
from knowtation_backup.model.events import Event
from knowtation_backup.model.manifest import Manifest, manifest_key, side_key
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.moments import iso_ms
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.model.reports import VerifyLevel
from knowtation_backup.model.selection import ArchiveFilter
from knowtation_backup.model.signatures import SignaturePolicy
from knowtation_backup.operations.adopt import AdoptOptions, adopt, adopt_all
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import find_archive, list_archives
from knowtation_backup.operations.marks import put_mark
from knowtation_backup.operations.read import read, read_details, read_manifest
from knowtation_backup.operations.verify import verify
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

GOLDEN = sorted((Path(__file__).parents[2] / "golden" / "payloads").glob("*.json"))
NAME = "operator-full-export-20260408T153022Z.json"
NOW = dt.datetime(2026, 11, 21, 3, 0, tzinfo=dt.UTC)
KEY, OTHER_KEY = EncryptionKey.generate(), EncryptionKey.generate()
CODEC = Ktb1Codec(KEY)
NOTE = '{"path":"a.md","frontmatter":"{}","body":"text"}'
EXPORT = (
    '{"format_version":4,"kind":"knowtation-operator-full-export","exported_at":"2026-04-08T15:30:22.123Z","users":['
    f'{{"user_id":"google:1","vaults":[{{"vault_id":"default","notes":[{NOTE}]}}],"proposals":[]}}]}}'
).encode()
VAULT = (
    '{"format_version":2,"kind":"knowtation-operator-vault-export","exported_at":"2026-04-08T15:30:22.123Z",'
    f'"vault_id":"work","notes":[{NOTE}],"proposals":[]}}'
).encode()


def clock() -> dt.datetime:
    return NOW


def store(*blobs: tuple[str, bytes]) -> MemorySink:
    sink = MemorySink(clock=clock)
    for key, data in blobs:
        sink.put(key, [data])
    return sink


def sealed(codec: Codec, data: bytes = EXPORT) -> bytes:
    return b"".join(codec.seal([data]))


def tgz(*, members: int = 3) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for number in range(members):
            info = tarfile.TarInfo(f"./notes-{number}.db")
            info.size = 10_000
            archive.addfile(info, io.BytesIO(hashlib.sha512(bytes([number])).digest() * 200))
    return file.getvalue()


def assert_whole(sink: ArchiveSink, archive_id: str, codec: Codec | None = None) -> None:
    """It verifies at every level, without a single byte of the artifact changed."""
    for level in VerifyLevel:
        assert verify(sink, archive_id, level=level, codec=codec, record=False).findings == ()


def test_an_adopted_file_is_an_archive_like_any_other() -> None:
    sink = store((NAME, EXPORT))
    adoption = adopt(sink, NAME, options=AdoptOptions(source_id="fake-hub", tags=("old",)), clock=clock)
    assert sink.contents()[NAME] == EXPORT
    assert list(sink.contents()) == sorted([NAME, side_key(NAME, "details.json"), manifest_key(NAME)])
    (info,) = list_archives(sink)
    assert (info.state, info.managed, info.kind) == (ArchiveState.COMPLETE, True, "knowtation-operator-full-export")
    assert (info.series, info.tags) == ("operator-full-export@fake-hub", ("old",))
    assert info.taken_at == dt.datetime(2026, 4, 8, 15, 30, 22, 123_000, tzinfo=dt.UTC)
    assert find_archive([info]) == info
    assert_whole(sink, NAME)
    manifest = read_manifest(sink, NAME)
    assert manifest == adoption.manifest
    assert manifest.counts == {"tenants": 1, "vaults": 1, "notes": 1, "proposals": 0}
    assert manifest.extra == {"adopted": True}
    details = read_details(sink, manifest)
    assert details.payload_sha256 == hashlib.sha256(EXPORT).hexdigest()
    assert details.capture["adopted"] == {"at": iso_ms(NOW), "dated_by": "exported_at"}
    assert b"".join(read(sink, NAME)) == EXPORT
    assert str(adoption) == (
        f"adopted {NAME} (knowtation-operator-full-export): 1 tenants, 1 vaults, 1 notes, 0 proposals"
    )


def wrappings() -> Iterator[Any]:
    plain: list[tuple[str, Codec | None]] = [
        ("", None),
        (".gz", Compression("gzip")),
        (".zst", Compression("zstd")),
        (".br", Compression("brotli")),
        (".xz", Compression("xz")),
    ]
    for suffix, codec in plain:
        yield pytest.param(suffix, codec, id=suffix or "plain")
        yield pytest.param(f"{suffix}.enc", CodecChain(codec, CODEC) if codec else CODEC, id=f"{suffix}.enc")
    ktb2 = Ktb2Codec(seal_to=KEY, chunk_bytes=4096)
    yield pytest.param(".zst.ktb2", CodecChain(Compression("zstd"), ktb2), id=".zst.ktb2")


@pytest.mark.parametrize(("suffix", "codec"), list(wrappings()))
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_known_payload_in_every_form(path: Path, suffix: str, codec: Codec | None) -> None:
    vector = json.loads(path.read_bytes())
    data = vector["payload"].encode()
    name = f"{NAME}{suffix}"
    sink = store((name, sealed(codec, data) if codec else data))
    before = sink.contents()
    if vector["outcome"] != "ok":
        with pytest.raises((IntegrityError, DecryptionError, UnsupportedFormatError)):
            adopt(sink, name, codec, clock=clock)
        assert sink.contents() == before
        return
    adoption = adopt(sink, name, codec, options=AdoptOptions(user_id=vector.get("user_id", "")), clock=clock)
    assert adoption.manifest.counts == vector["counts"]
    assert adoption.manifest.codecs == (codec.specs if codec else ())
    assert read_details(sink, adoption.manifest, codec).capture["content_root"] == vector["content_root"]
    assert b"".join(read(sink, name, codec)) == data
    assert_whole(sink, name, codec)
    assert sink.contents()[name] == before[name]


def test_the_records_form() -> None:
    name = "records-export-20260408T153022Z.ndjson"
    data = b"".join(records_export(ExportReader([EXPORT])))
    sink = store((name, data))
    adoption = adopt(sink, name, clock=clock)
    assert (adoption.manifest.kind, adoption.manifest.counts["notes"]) == ("knowtation-backup-records", 1)
    assert adoption.dated_by == "exported_at"
    assert_whole(sink, name)
    with pytest.raises(TruncatedError):
        adopt(store((name, data[:-1])), name, clock=clock)


MAGICS = [
    b"",
    b"{",
    b"KTB1",
    b"KTB2",
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
    b"\xfd7zXZ\x00",
    b"age-encryption.org/v1\n",
    b"PK\x03\x04",
]


@settings(max_examples=150, deadline=None)
@given(
    magic=st.sampled_from([*MAGICS, EXPORT[:80], EXPORT[:-1], b'{"version":"enc-v1",']),
    data=st.binary(max_size=200),
    name=st.sampled_from([NAME, f"{NAME}.br", "km-backup-1.tgz", "20260408_153022.tar.gz"]),
)
def test_whatever_a_file_holds_it_is_adopted_or_refused(magic: bytes, data: bytes, name: str) -> None:
    sink = store((name, magic + data))
    ring = Keyring([KEY, Passphrase(text="correct horse"), PrivateKey.generate(KeyKind.X25519)])
    try:
        adopt(sink, name, ring, clock=clock)
    except BackupError:
        assert list(sink.contents()) == [name]
    else:
        assert_whole(sink, name, ring)


def test_nothing_about_tenants_is_readable_without_the_key() -> None:
    name = f"{NAME}.enc"
    sink = store((name, sealed(CODEC)))
    adopt(sink, name, CODEC, clock=clock)
    for key, data in sink.contents().items():
        assert b"google" not in data
        assert hashlib.sha256(EXPORT).hexdigest().encode() not in data
        assert b"google" not in key.encode()


class TestKeys:
    NAME = f"{NAME}.enc"

    @pytest.mark.parametrize(
        ("codec", "error"),
        [
            (None, NoMatchingKeyError),
            (Compression("gzip"), NoMatchingKeyError),
            (Ktb1Codec(OTHER_KEY), TamperedError),
            (Keyring([OTHER_KEY]), TamperedError),
            (Keyring([Passphrase(text="correct horse")]), NoMatchingKeyError),
            (EncV1Codec(Passphrase(text="correct horse")), UnsupportedFormatError),
        ],
    )
    def test_without_the_right_key_nothing_is_written(self, codec: Codec | None, error: type[BackupError]) -> None:
        sink = store((self.NAME, sealed(CODEC)))
        with pytest.raises(error):
            adopt(sink, self.NAME, codec, clock=clock)
        assert list(sink.contents()) == [self.NAME]

    @pytest.mark.parametrize(
        "codec",
        [
            Keyring([OTHER_KEY, KEY, Passphrase(text="correct horse")]),
            CodecChain(Ktb1Codec(OTHER_KEY), CODEC),
            CodecChain(Compression("gzip"), CODEC),
        ],
        ids=["ring", "chain", "compressing"],
    )
    def test_the_key_that_opens_is_the_one_named(self, codec: Codec) -> None:
        sink = store((self.NAME, sealed(CODEC)))
        assert adopt(sink, self.NAME, codec, clock=clock).manifest.codecs == CODEC.specs
        assert_whole(sink, self.NAME, CODEC)

    def test_a_container_names_its_keys_itself(self) -> None:
        private = PrivateKey.generate(KeyKind.X25519)
        writer = Ktb2Codec(seal_to=[private.public_key, KEY], chunk_bytes=4096)
        name = f"{NAME}.ktb2"
        sink = store((name, sealed(writer)))
        with pytest.raises(NoMatchingKeyError):
            adopt(sink, name, Ktb2Codec(seal_to=private.public_key, open_with=OTHER_KEY), clock=clock)
        with pytest.raises(ConfigurationError, match="no key to seal to"):
            adopt(sink, name, Ktb2Codec(open_with=private), clock=clock)
        with pytest.raises(NoMatchingKeyError):  # its details would be sealed to somebody else alone
            adopt(sink, name, Ktb2Codec(seal_to=OTHER_KEY, open_with=private), clock=clock)
        assert list(sink.contents()) == [name]
        codec = Ktb2Codec(seal_to=private.public_key, open_with=private)
        assert adopt(sink, name, codec, clock=clock).manifest.codecs == writer.specs
        assert_whole(sink, name, Keyring([private]))

    def test_age_files(self) -> None:
        pytest.importorskip("pyrage")
        identity = AgeIdentity.generate()
        name = f"{NAME}.age"
        sink = store((name, sealed(AgeCodec(seal_to=identity.recipient))))
        with pytest.raises(NoMatchingKeyError):
            adopt(sink, name, AgeCodec(open_with=AgeIdentity.generate()), clock=clock)
        with pytest.raises(ConfigurationError, match="no recipient to seal to"):
            adopt(sink, name, Keyring([identity]), clock=clock)
        assert list(sink.contents()) == [name]
        adopt(sink, name, AgeCodec(seal_to=identity.recipient, open_with=identity), clock=clock)
        assert_whole(sink, name, Keyring([identity]))

    def test_a_header_larger_than_most_is_read(self) -> None:
        keys = [PrivateKey.generate().public_key for _ in range(63)]
        name = f"{NAME}.ktb2"
        sink = store((name, sealed(Ktb2Codec(seal_to=[*keys, KEY]))))
        adoption = adopt(sink, name, Ktb2Codec(seal_to=KEY), clock=clock)
        assert len(adoption.manifest.codecs[0].key_ids) == 64

    def test_what_was_compressed_after_it_was_sealed_is_refused(self) -> None:
        name = f"{NAME}.enc.gz"
        sink = store((name, gzip.compress(sealed(CODEC))))
        with pytest.raises(UnsupportedFormatError) as caught:
            adopt(sink, name, CODEC, clock=clock)
        assert caught.value.kind == "bad_codec_order"

    def test_endless_wrapping_is_refused(self) -> None:
        data = EXPORT
        for _ in range(6):
            data = sealed(CODEC, data)
        sink = store((self.NAME, data))
        with pytest.raises(UnsupportedFormatError, match="wrapped more than 4 times"):
            adopt(sink, self.NAME, CODEC, clock=clock)

    def test_a_file_twice_sealed_opens_twice(self) -> None:
        sink = store((self.NAME, sealed(CODEC, sealed(CODEC))))
        assert adopt(sink, self.NAME, CODEC, clock=clock).manifest.codecs == CODEC.specs * 2
        assert_whole(sink, self.NAME, CODEC)


class TestDates:
    @pytest.mark.parametrize(
        ("name", "exported_at", "origin", "moment"),
        [
            (NAME, "2025-12-31T23:59:59.999Z", "exported_at", "2025-12-31T23:59:59.999Z"),
            ("renamed.json", "2025-12-31T23:59:59.999Z", "exported_at", "2025-12-31T23:59:59.999Z"),
            (NAME, "yesterday", "name", "2026-04-08T15:30:22.000Z"),
            ("renamed.json", "yesterday", "modified", "2026-11-21T03:00:00.000Z"),
        ],
    )
    def test_the_payload_comes_before_the_name_and_the_name_before_the_file(
        self, name: str, exported_at: str, origin: str, moment: str
    ) -> None:
        sink = store((name, EXPORT.replace(b"2026-04-08T15:30:22.123Z", exported_at.encode())))
        adoption = adopt(sink, name, clock=clock)
        assert (adoption.dated_by, iso_ms(adoption.manifest.taken_at)) == (origin, moment)
        assert_whole(sink, name)

    def test_a_store_that_knows_no_times(self) -> None:
        class Timeless(MemorySink):
            def _stat(self, key: str) -> Any:
                return attrs.evolve(super()._stat(key), modified_at=None)

        sink = Timeless()
        sink.put("old.json", [EXPORT.replace(b"2026-04-08T15:30:22.123Z", b"")])
        adoption = adopt(sink, "old.json", clock=clock)
        assert (adoption.dated_by, adoption.manifest.taken_at) == ("now", NOW)

    def test_a_renamed_file_is_found_by_its_manifest(self) -> None:
        sink = store(("renamed.json", EXPORT))
        assert list_archives(sink) == []
        adopt(sink, "renamed.json", options=AdoptOptions(source_id="hub"), clock=clock)
        (info,) = list_archives(sink)
        assert (info.archive_id, info.state) == ("renamed.json", ArchiveState.COMPLETE)
        assert info.series == "knowtation-operator-full-export@hub"
        assert info.taken_at == dt.datetime(2026, 4, 8, 15, 30, 22, 123_000, tzinfo=dt.UTC)
        sink.delete("renamed.json")
        assert list_archives(sink)[0].state is ArchiveState.DAMAGED


class TestVaults:
    NAME = "canister-export-work-20260408T153022Z.json"

    def test_with_hub_and_tenant_they_join_the_series_of_our_backups(self) -> None:
        sink = store((self.NAME, VAULT))
        options = AdoptOptions(source_id="hub-id", user_id="google:1")
        manifest = adopt(sink, self.NAME, options=options, clock=clock).manifest
        assert manifest.source_id == f"hub-id/{vault_tag('hub-id', 'google:1', 'work')}"
        assert b"google" not in manifest.to_bytes()
        capture = read_details(sink, manifest).capture
        assert (capture["user_id"], capture["vault_id"]) == ("google:1", "work")
        assert_whole(sink, self.NAME)

    @pytest.mark.parametrize("options", [AdoptOptions(), AdoptOptions(source_id="hub"), AdoptOptions(user_id="a:1")])
    def test_without_either_they_do_not(self, options: AdoptOptions) -> None:
        sink = store((self.NAME, VAULT))
        manifest = adopt(sink, self.NAME, options=options, clock=clock).manifest
        assert manifest.source_id == options.source_id
        assert_whole(sink, self.NAME)


def encrypted_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.json", "{}")
    return sealed(EncV1Codec(Passphrase(text="correct horse")), file.getvalue())


AGENT = b'{"version":"1.1","agentName":"bot","components":[],"checksums":{}}'
BUNDLE = b'{"format":"agentvault-thoughtform-bundle-v1","createdAt":"x","manifest":{},"entries":{}}'


class TestOpaque:
    """What is no payload of Knowtation is kept by its digest."""

    @pytest.mark.parametrize(
        ("name", "data", "kind", "series"),
        [
            ("km-backup-20260408T153022Z.tgz", tgz(), "duskmantle-state", "km-backup"),
            ("backup-20260408T153022Z.tar.gz", tgz(), "duskmantle-state", "backup"),
            ("20260408_153022.tar.gz", tgz(), "quri-backup", "quri@unknown"),
            (NAME, tgz(), "tar", "operator-full-export@unknown"),
            ("something.tar", gzip.decompress(tgz()), "tar", "tar@unknown"),
            ("bot-2026-04-08T15-30-22-678Z.json", AGENT, "agentvault-manifest", "bot@unknown"),
            (
                "bot-2026-04-08T15-30-22-678Z.thoughtform-bundle.json.gz",
                gzip.compress(BUNDLE, mtime=0),
                "agentvault-thoughtform-bundle",
                "bot@unknown",
            ),
            ("archive-1775662222678-0badcafe.json", b'{"any":1}', "agentvault-archive", "archive@unknown"),
            (
                "attestation-export-20260408T153022Z.json",
                b'{"format_version":1,"kind":"knowtation-attestation-export","records":[]}',
                "knowtation-attestation-export",
                "attestation-export@unknown",
            ),
        ],
        ids=["km", "backup", "quri", "tar with our name", "tar", "agentvault", "bundle", "agentvault store", "ledger"],
    )
    def test_known_ones(self, name: str, data: bytes, kind: str, series: str) -> None:
        sink = store((name, data))
        adoption = adopt(sink, name, clock=clock)
        assert (adoption.manifest.kind, adoption.manifest.counts, adoption.manifest.codecs) == (kind, {}, ())
        assert "not looked inside" in str(adoption)
        (info,) = list_archives(sink)
        assert (info.state, info.managed, info.kind, info.series) == (ArchiveState.COMPLETE, True, kind, series)
        assert find_archive([info]) == info
        assert b"".join(read(sink, name)) == data
        assert_whole(sink, name)

    def test_sealed_ones(self) -> None:
        name = "bot-2026-04-08T15-30-22-678Z.zip.enc"
        codec = EncV1Codec(Passphrase(text="correct horse"))
        sink = store((name, encrypted_zip()))
        assert adopt(sink, name, codec, clock=clock).manifest.kind == "agentvault-encrypted-zip"
        assert_whole(sink, name, codec)

    @pytest.mark.parametrize("cut", [1, 9, 200])
    def test_a_compressed_one_that_was_cut_is_refused(self, cut: int) -> None:
        """The helper of the gateway leaves such behind when a file changes under it."""
        name = "km-backup-20260408T153022Z.tgz"
        sink = store((name, tgz()[:-cut]))
        with pytest.raises(TruncatedError):
            adopt(sink, name, clock=clock)
        assert list(sink.contents()) == [name]

    def test_a_compressed_one_that_was_damaged_is_refused(self) -> None:
        name = "km-backup-20260408T153022Z.tgz"
        data = bytearray(tgz(members=200))
        data[-5] ^= 1  # in the checksum at the end
        sink = store((name, bytes(data)))
        with pytest.raises(IntegrityError):
            adopt(sink, name, clock=clock)
        assert list(sink.contents()) == [name]

    def test_bombs_are_refused_and_limits_are_those_of_the_codec(self) -> None:
        name = "km-backup-20260408T153022Z.tgz"
        sink = store((name, tgz()))
        with pytest.raises(IntegrityError) as caught:
            adopt(sink, name, Compression("gzip", limits=UnwrapLimits(ratio=1, allowance_bytes=0)), clock=clock)
        assert caught.value.kind == "decompression_limit"
        assert list(sink.contents()) == [name]

    @pytest.mark.parametrize("data", [b"hello", gzip.compress(b"hello"), b"[]", b"\x00" * 1000])
    def test_unknown_content_needs_a_kind(self, data: bytes) -> None:
        sink = store(("blob.bin", data))
        with pytest.raises(UnsupportedFormatError) as caught:
            adopt(sink, "blob.bin", clock=clock)
        assert caught.value.kind == "unknown_content"
        adoption = adopt(sink, "blob.bin", options=AdoptOptions(kind="my-notes"), clock=clock)
        assert adoption.manifest.kind == "my-notes"
        assert_whole(sink, "blob.bin")

    def test_the_vector_of_the_container_needs_a_kind_too(self) -> None:
        documented = (
            "4b544231a0a1a2a3a4a5a6a7a8a9aaab9d3a144829a76d9d5847f010b108acba52d1164ad71499967a91b06d94e732e14e2c"
        )
        codec = Ktb1Codec(EncryptionKey(raw=bytes(range(32))))
        sink = store(("sample.json.enc", bytes.fromhex(documented)))
        with pytest.raises(UnsupportedFormatError):
            adopt(sink, "sample.json.enc", codec, clock=clock)
        adopt(sink, "sample.json.enc", codec, options=AdoptOptions(kind="greeting"), clock=clock)
        assert b"".join(read(sink, "sample.json.enc", codec)) == '{"hello":"wörld"}'.encode()
        assert_whole(sink, "sample.json.enc", codec)

    def test_a_kind_of_knowtation_cannot_be_claimed(self) -> None:
        with pytest.raises(ConfigurationError):
            AdoptOptions(kind="knowtation-operator-full-export")


class TestRefusals:
    @pytest.mark.parametrize("codec", [None, CODEC])
    def test_an_empty_file(self, codec: Codec | None) -> None:
        sink = store((NAME, sealed(codec, b"") if codec else b""))
        with pytest.raises(TruncatedError):
            adopt(sink, NAME, codec, clock=clock)
        assert list(sink.contents()) == [NAME]

    def test_no_file(self) -> None:
        with pytest.raises(BlobNotFoundError):
            adopt(MemorySink(), NAME)

    def test_a_file_in_a_folder(self) -> None:
        sink = store((f"2025/{NAME}", EXPORT))
        with pytest.raises(ConfigurationError) as caught:
            adopt(sink, f"2025/{NAME}")
        assert caught.value.kind == "bad_key"

    def test_an_archive(self) -> None:
        sink = store((NAME, EXPORT))
        adopt(sink, NAME, clock=clock)
        before = sink.contents()
        with pytest.raises(ConfigurationError) as caught:
            adopt(sink, NAME, clock=clock)
        assert caught.value.kind == "already_managed"
        assert sink.contents() == before

    def test_an_unfinished_backup_of_ours(self) -> None:
        sink = MemorySink()
        archive_id = backup(FakeSource(payload=(EXPORT,)), sink, clock=clock).archive_id
        sink.delete(manifest_key(archive_id))
        with pytest.raises(ConfigurationError) as caught:
            adopt(sink, archive_id, clock=clock)
        assert caught.value.kind == "unfinished_backup"

    def test_a_file_that_is_still_being_written(self) -> None:
        class Growing(FaultSink):
            def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
                yield from super()._read(key, start, size_bytes)
                yield b" "

        sink = store((NAME, EXPORT))
        with pytest.raises(IntegrityError) as caught:
            adopt(Growing(sink), NAME, clock=clock)
        assert caught.value.kind == "changed_while_reading"
        assert list(sink.contents()) == [NAME]

    def test_a_store_that_may_not_be_written(self) -> None:
        inner = store((NAME, EXPORT))
        sink = FaultSink(inner, fail_at=4, error=lambda asked: SinkPermissionError(f"{asked} is refused"))
        with pytest.raises(SinkPermissionError, match="put side"):
            adopt(sink, NAME, clock=clock)
        assert list(inner.contents()) == [NAME]


def test_the_rights_to_list_read_and_create_suffice() -> None:
    sink = MemorySink(permissions="lrw", clock=clock)
    sink.put(f"{NAME}.enc", [sealed(CODEC)])
    adopt(sink, f"{NAME}.enc", CODEC, clock=clock)
    assert_whole(sink, f"{NAME}.enc", CODEC)


@pytest.mark.parametrize(("name", "most"), [(NAME, 1), (f"{NAME}.gz", 1), (f"{NAME}.enc", 2), ("km-backup-1.tgz", 2)])
def test_a_file_is_read_once_or_twice(name: str, most: int) -> None:
    data = {NAME: EXPORT, f"{NAME}.gz": gzip.compress(EXPORT), f"{NAME}.enc": sealed(CODEC)}.get(name, tgz())
    sink = FaultSink(store((name, data)))
    adopt(sink, name, CODEC, clock=clock)
    assert sink.operations.count(f"read {name}") == most


@pytest.mark.parametrize("moment", list(FaultMoment))
@pytest.mark.parametrize("signing", [False, True])
def test_whatever_fails_the_file_stays_and_the_next_try_goes_on(moment: FaultMoment, *, signing: bool) -> None:
    name = f"{NAME}.enc"
    data = sealed(CODEC)
    keys = [SigningKey.generate()] if signing else []
    counting = FaultSink(store((name, data)))
    adopt(counting, name, CODEC, signing_keys=keys, clock=clock)
    for number in range(len(counting.operations)):
        sink = store((name, data))
        faulty = FaultSink(sink, fail_at=number, moment=moment)
        with pytest.raises(SinkUnavailableError):
            adopt(faulty, name, CODEC, signing_keys=keys, clock=clock)
        assert sink.contents()[name] == data
        (info,) = list_archives(sink)
        finished = manifest_key(name) in sink.contents()
        assert info.managed is finished
        assert (info.state is ArchiveState.COMPLETE) is finished
        if not finished:
            adopt(sink, name, CODEC, signing_keys=keys, clock=lambda: NOW + dt.timedelta(days=1))
        assert_whole(sink, name, CODEC)
        policy = SignaturePolicy(trusted=[key.verify_key for key in keys])
        assert not verify(sink, name, codec=CODEC, policy=policy, record=False).findings


def test_a_try_with_other_options_is_a_conflict_until_its_left_overs_are_gone() -> None:
    sink = store((NAME, EXPORT))
    adopt(sink, NAME, options=AdoptOptions(source_id="one"), clock=clock)
    sink.delete(manifest_key(NAME))
    with pytest.raises(BlobExistsError) as caught:
        adopt(sink, NAME, options=AdoptOptions(source_id="two"), clock=clock)
    assert caught.value.kind == "adoption_conflict"
    sink.delete(side_key(NAME, "details.json"))
    adopt(sink, NAME, options=AdoptOptions(source_id="two"), clock=clock)
    assert_whole(sink, NAME)


def test_signatures_of_another_try_are_a_conflict() -> None:
    sink = store((NAME, EXPORT))
    adopt(sink, NAME, signing_keys=[SigningKey.generate()], clock=clock)
    sink.delete(manifest_key(NAME))
    with pytest.raises(BlobExistsError) as caught:
        adopt(sink, NAME, signing_keys=[SigningKey.generate()], clock=clock)
    assert caught.value.kind == "adoption_conflict"


@pytest.mark.parametrize("data", [b"", b"{}", b"x" * 100], ids=["empty", "object", "text"])
def test_damaged_details_are_a_conflict(data: bytes) -> None:
    sink = store((NAME, EXPORT), (side_key(NAME, "details.json"), data))
    with pytest.raises(BlobExistsError) as caught:
        adopt(sink, NAME, clock=clock)
    assert caught.value.kind == "adoption_conflict"


@pytest.mark.parametrize("tags", [(), ("theirs",)])
def test_of_two_that_adopt_at_once_one_is_told_unless_they_do_the_same(tags: tuple[str, ...]) -> None:
    inner = store((NAME, EXPORT))

    class Racing(FaultSink):
        """Somebody else adopts the file while it is being read."""

        def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
            if key == NAME:
                adopt(inner, NAME, options=AdoptOptions(tags=tags), clock=lambda: NOW + dt.timedelta(days=1))
            return super()._read(key, start, size_bytes)

    if tags:
        with pytest.raises(BlobExistsError, match="adopted by somebody else") as caught:
            adopt(Racing(inner), NAME, clock=clock)
        assert (caught.value.kind, caught.value.hint) == ("adoption_conflict", "it is an archive now: verify it")
    else:
        adopted = adopt(Racing(inner), NAME, clock=clock).manifest
        assert adopted == Manifest.from_bytes(inner.contents()[manifest_key(NAME)])
    assert_whole(inner, NAME)


def test_details_that_another_key_sealed_are_a_conflict() -> None:
    name = f"{NAME}.enc"
    sink = store((name, sealed(CODEC)), (side_key(name, "details.json.enc"), sealed(Ktb1Codec(OTHER_KEY), b"{}")))
    with pytest.raises(BlobExistsError) as caught:
        adopt(sink, name, CODEC, clock=clock)
    assert caught.value.kind == "adoption_conflict"
    assert manifest_key(name) not in sink.contents()


def test_adopted_archives_can_be_signed() -> None:
    sink = store((NAME, EXPORT))
    key = SigningKey.generate()
    adopt(sink, NAME, signing_keys=[key], clock=clock)
    policy = SignaturePolicy(trusted=[key.verify_key])
    assert b"".join(read(sink, NAME, policy=policy)) == EXPORT
    assert verify(sink, NAME, policy=policy, record=False).findings == ()


def test_damage_after_adoption_is_found() -> None:
    sink = store((NAME, EXPORT))
    adopt(sink, NAME, clock=clock)
    sink.delete(NAME)
    sink.put(NAME, [EXPORT.replace(b"text", b"test")])
    codes = {finding.code for finding in verify(sink, NAME, record=False).findings}
    assert "digest_mismatch" in codes


class TestAll:
    NAMES = (
        "operator-full-export-20260401T000000Z.json",
        "operator-full-export-20260402T000000Z.json.enc",
        "operator-full-export-20260403T000000Z.json",
        "km-backup-20260404T000000Z.tgz",
        "km-backup-20260405T000000Z.tgz",
    )

    @pytest.fixture
    def sink(self) -> MemorySink:
        data = [EXPORT, sealed(CODEC), EXPORT[:-1], tgz(), b""]
        return store(*zip(self.NAMES, data, strict=True), ("notes.txt", b"x"))

    def test_one_that_cannot_be_adopted_does_not_stop_the_others(self, sink: MemorySink) -> None:
        told: list[Event] = []
        report = adopt_all(sink, CODEC, observer=told.append, clock=clock)
        good = [self.NAMES[number] for number in (0, 1, 3)]
        bad = [self.NAMES[number] for number in (2, 4)]
        assert [adoption.archive_id for adoption in report.adopted] == good
        assert [failure.archive_id for failure in report.failed] == bad
        assert report.exit_code == 3
        assert f"NOT adopted {bad[0]}: " in str(report)
        assert str(report).endswith("3 adopted, 2 not")
        events = [(event.name, event.fields["archive_id"]) for event in told if event.name.startswith("adopt.")]
        assert events == [("adopt.finished" if name in good else "adopt.failed", name) for name in self.NAMES]
        for name in good:
            assert_whole(sink, name, CODEC)
        assert sink.contents()[bad[0]] == EXPORT[:-1]

    def test_a_second_run_tries_only_what_is_left(self, sink: MemorySink) -> None:
        adopt_all(sink, CODEC, clock=clock)
        again = adopt_all(sink, CODEC, clock=clock)
        assert (len(again.adopted), len(again.failed)) == (0, 2)

    def test_a_filter_says_which(self, sink: MemorySink) -> None:
        report = adopt_all(sink, CODEC, wanted=ArchiveFilter(kind="duskmantle-state"), clock=clock)
        assert [adoption.archive_id for adoption in report.adopted] == [self.NAMES[3]]

    def test_what_is_in_the_trash_stays_there(self, sink: MemorySink) -> None:
        put_mark(sink, self.NAMES[0], MarkVerb.TRASHED, clock=clock)
        report = adopt_all(sink, CODEC, clock=clock)
        assert self.NAMES[0] not in [adoption.archive_id for adoption in report.adopted]

    def test_ours_are_left_alone(self) -> None:
        sink = MemorySink()
        backup(FakeSource(), sink, clock=clock)
        unfinished = backup(FakeSource(), sink, clock=clock).archive_id
        sink.delete(manifest_key(unfinished))
        report = adopt_all(sink, clock=clock)
        assert (report.adopted, report.failed, report.exit_code) == ((), (), 0)

    def test_retention_counts_what_was_adopted(self, sink: MemorySink) -> None:
        before = KeepLast(limit=1).plan(list_archives(sink), now=NOW)
        assert not [info for info in before.forgotten if info.archive_id.startswith("operator")]
        adopt_all(sink, CODEC, options=AdoptOptions(source_id="hub"), clock=clock)
        after = KeepLast(limit=1).plan(list_archives(sink), now=NOW)
        assert [info.archive_id for info in after.forgotten if info.archive_id.startswith("operator")] == [
            self.NAMES[0]
        ]


def test_a_pipeline_adopts_one_or_all(tmp_path: Path) -> None:
    (tmp_path / "renamed.json").write_bytes(EXPORT)
    (tmp_path / NAME).write_bytes(EXPORT)
    pipeline = Pipeline(sink=FsspecSink(tmp_path), signing_keys=[SigningKey.generate()], clock=clock)
    assert pipeline.adopt("renamed.json").archive_id == "renamed.json"
    assert [adoption.archive_id for adoption in pipeline.adopt_all().adopted] == [NAME]
    assert len(pipeline.list()) == 2
    assert side_key(NAME, "manifest.sig") in {info.key for info in pipeline.sink.list()}


def test_a_directory_of_the_existing_tools(tmp_path: Path) -> None:
    """As their scripts write it, in place and without any of ours beside it."""
    (tmp_path / NAME).write_bytes(EXPORT)
    (tmp_path / "canister-export-work-20260409T070000Z.json.enc").write_bytes(sealed(CODEC, VAULT))
    (tmp_path / "operator-full-export-20260410T073000Z.json.gz").write_bytes(gzip.compress(EXPORT))
    (tmp_path / "km-backup-20260411T000000Z.tgz").write_bytes(tgz())
    sink = FsspecSink(tmp_path)
    assert {info.managed for info in list_archives(sink) if "km" not in info.archive_id} == {False}
    report = adopt_all(sink, CODEC, options=AdoptOptions(source_id="hub", user_id="google:1"), clock=clock)
    assert (len(report.adopted), report.failed) == (4, ())
    assert (tmp_path / NAME).read_bytes() == EXPORT
    for info in list_archives(sink):
        assert (info.state, info.managed) == (ArchiveState.COMPLETE, True)
        assert_whole(sink, info.archive_id, CODEC)
    assert find_archive(list_archives(sink)).archive_id == "km-backup-20260411T000000Z.tgz"
    assert (
        find_archive(list_archives(sink), "latest:operator-full-export@hub").archive_id
        == "operator-full-export-20260410T073000Z.json.gz"
    )
