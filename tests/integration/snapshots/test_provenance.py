"""What a download proves, and what it does not survive: any change of data or evidence, by two checkers."""

import functools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from provenance_mini import check as check_from_the_page
from snapshot_source import snapshot_source

from knowtation_backup.errors import BackupError, CertificateError, ConfigurationError, IntegrityError
from knowtation_backup.ic.cbor import CborReader, encode
from knowtation_backup.model.canisters import SnapshotPart
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.snapshots.directory import SnapshotDirectory
from knowtation_backup.snapshots.download import download, stream
from knowtation_backup.snapshots.provenance import PROVENANCE_FILE, check_provenance, verify_provenance
from knowtation_backup.snapshots.provenance_records import read_provenance
from knowtation_backup.snapshots.reading import DownloadOptions

pytestmark = pytest.mark.sandbox

OPTIONS = DownloadOptions(concurrency=4)


@attrs.frozen
class Genuine:
    """A downloaded snapshot and the key to prove it with."""

    path: Path
    root_key: bytes
    evidence: bytes
    canister_id: Principal
    read: Callable[[SnapshotPart], bytes]

    def verify(self, evidence: bytes) -> None:
        """Check the data of the directory, from memory, against some evidence."""
        check_provenance(read_provenance(evidence), self.read, root_key=self.root_key, workers=1)


@pytest.fixture(scope="module", params=[True, False], ids=["delegation", "root"])
def genuine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Genuine]:
    path = tmp_path_factory.mktemp("genuine") / "snapshot"
    with snapshot_source(chunks=2, delegation=request.param) as source:
        download(source.management, source.canister_id, source.snapshot_id, path, options=OPTIONS)
        evidence = (path / PROVENANCE_FILE).read_bytes()
        with SnapshotDirectory.open(path) as directory:
            read = functools.cache(directory.read)
            yield Genuine(path, source.network.root_key, evidence, source.canister_id, read)


@pytest.fixture
def copy(genuine: Genuine, tmp_path: Path) -> Path:
    return Path(shutil.copytree(genuine.path, tmp_path / "copy"))


def refused(path: Path, root_key: bytes) -> bool:
    """Whether both checkers refuse; they must agree."""
    with pytest.raises(BackupError):
        verify_provenance(path, root_key=root_key)
    try:
        check_from_the_page(path, root_key)
    except Exception:  # noqa: BLE001 - the small checker refuses with whatever comes
        return True
    return False


def test_a_download_is_proved_by_the_root_key_alone(genuine: Genuine) -> None:
    report = verify_provenance(genuine.path, root_key=genuine.root_key)
    check_from_the_page(genuine.path, genuine.root_key)
    assert report.canister_id == genuine.canister_id
    assert report.source == "taken_from_canister"
    assert report.taken_at <= report.first_certified_at <= report.last_certified_at
    assert report.parts == 7
    assert report.size_bytes == sum(
        path.stat().st_size for path in genuine.path.rglob("*.bin") if path.name != PROVENANCE_FILE
    )
    assert report.evidence_bytes == len(genuine.evidence)
    assert f"{report.size_bytes:,} bytes in 7 parts" in str(report)


def test_key_and_ids_may_be_given_as_text(genuine: Genuine) -> None:
    report = verify_provenance(genuine.path, root_key=genuine.root_key)
    canister, snapshot, key = str(report.canister_id), str(report.snapshot_id), genuine.root_key.hex()
    assert verify_provenance(genuine.path, root_key=key, canister_id=canister, snapshot_id=snapshot) == report
    with pytest.raises(ConfigurationError) as caught:
        verify_provenance(genuine.path, root_key="00")
    assert caught.value.kind == "bad_root_key"


def test_every_field_of_the_evidence_counts(genuine: Genuine) -> None:
    """Single bits, over the whole file: at every structure and at random places."""
    bits = len(genuine.evidence) * 8
    genuine.verify(genuine.evidence)
    drawn = random.Random(4)  # noqa: S311 - the same places each time
    chosen = set(range(0, bits, 131)) | {drawn.randrange(bits) for _ in range(100)}
    for bit in sorted(chosen):
        changed = bytearray(genuine.evidence)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            genuine.verify(bytes(changed))


def test_both_checkers_refuse_changed_evidence(genuine: Genuine, copy: Path) -> None:
    drawn = random.Random(5)  # noqa: S311 - the same places each time
    for _ in range(30):
        changed = bytearray(genuine.evidence)
        changed[drawn.randrange(len(changed))] ^= 1 << drawn.randrange(8)
        (copy / PROVENANCE_FILE).write_bytes(changed)
        assert refused(copy, genuine.root_key)


def test_both_checkers_refuse_changed_data(genuine: Genuine, copy: Path) -> None:
    drawn = random.Random(6)  # noqa: S311 - the same places each time
    for path in sorted(copy.rglob("*.bin")):
        original = path.read_bytes()
        for place in {0, len(original) - 1, *(drawn.randrange(len(original)) for _ in range(4))}:
            changed = bytearray(original)
            changed[place] ^= 1 << drawn.randrange(8)
            path.write_bytes(changed)
            assert refused(copy, genuine.root_key), (path.name, place)
        path.write_bytes(original)
    verify_provenance(copy, root_key=genuine.root_key)


def test_changed_metadata_is_refused(genuine: Genuine, copy: Path) -> None:
    path = copy / "metadata.json"
    original = path.read_bytes()
    drawn = random.Random(7)  # noqa: S311 - the same places each time
    for place in [drawn.randrange(len(original)) for _ in range(60)]:
        changed = bytearray(original)
        changed[place] ^= 1 << drawn.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(BackupError):
            verify_provenance(copy, root_key=genuine.root_key)


def test_parts_of_another_order_stay_genuine_and_a_missing_one_does_not(genuine: Genuine) -> None:
    items = split(genuine.evidence)
    parts = [item for item in items if b"dpart" in item[:8]]
    others = [item for item in items if item not in parts]
    random.Random(8).shuffle(parts)  # noqa: S311 - the same order each time
    genuine.verify(b"".join(others + parts))
    with pytest.raises(IntegrityError) as caught:
        genuine.verify(b"".join(others + parts[1:]))
    assert caught.value.kind == "provenance_incomplete"
    with pytest.raises(IntegrityError) as caught:
        genuine.verify(b"".join(others + parts + parts[:1]))
    assert caught.value.kind == "provenance_mismatch"


def test_evidence_of_two_parts_cannot_change_places(genuine: Genuine) -> None:
    items = split(genuine.evidence)
    first, second = (number for number, item in enumerate(items) if b"stable_memory" in item[:40])
    one, two = (CborReader(items[number]).item() for number in (first, second))
    items[first] = encode({**one, "evidence": two["evidence"]})
    items[second] = encode({**two, "evidence": one["evidence"]})
    with pytest.raises(CertificateError) as caught:
        genuine.verify(b"".join(items))
    assert caught.value.kind == "evidence_question"


def test_another_network_canister_or_snapshot_is_refused(genuine: Genuine) -> None:
    with snapshot_source() as other, pytest.raises(IntegrityError):
        verify_provenance(genuine.path, root_key=_another_key(other.network.root_key))
    with pytest.raises(IntegrityError) as caught:
        verify_provenance(genuine.path, root_key=genuine.root_key, canister_id=Principal(b"\0" * 8 + b"\1\1"))
    assert caught.value.kind == "provenance_mismatch"
    with pytest.raises(IntegrityError) as caught:
        verify_provenance(genuine.path, root_key=genuine.root_key, snapshot_id=SnapshotId(b"other"))
    assert caught.value.kind == "provenance_mismatch"


def _another_key(root_key: bytes) -> bytes:
    mainnet = bytes.fromhex(
        "814c0e6ec71fab583b08bd81373c255c3c371b2e84863c98a4f1e08b74235d14fb5d9c0cd546d9685f913a0c0b2cc534"
        "1583bf4b4392e467db96d65b9bb4cb717112f8472e0d5a4d14505ffd7484b01291091c5f87b98883463f98091a0baaae"
    )
    return root_key[:37] + mainnet


def test_a_directory_without_evidence_is_told_apart_from_a_false_one(copy: Path, genuine: Genuine) -> None:
    (copy / PROVENANCE_FILE).unlink()
    with pytest.raises(IntegrityError) as caught:
        verify_provenance(copy, root_key=genuine.root_key)
    assert caught.value.kind == "provenance_missing"
    (copy / PROVENANCE_FILE).write_bytes(genuine.evidence[:-1])
    with pytest.raises(IntegrityError) as caught:
        verify_provenance(copy, root_key=genuine.root_key)
    assert caught.value.kind == "provenance_malformed"


def test_a_stream_brings_the_same_proof() -> None:
    with snapshot_source(chunks=1) as source:
        with stream(source.management, source.canister_id, source.snapshot_id, options=OPTIONS) as parts:
            kept: dict[SnapshotPart, bytes] = {}
            evidence = parts.record
            for part in parts:
                kept[part.part] = bytes(part.data)
                evidence += part.record
            report = parts.result()
        assert list(kept) == list(parts.metadata.parts())
        assert report.evidence_bytes == len(evidence)
        _, proved = check_provenance(read_provenance(evidence), kept.__getitem__, root_key=source.network.root_key)
        assert proved.size_bytes == report.size_bytes == sum(map(len, kept.values()))


def split(evidence: bytes) -> list[bytes]:
    """Return the items of a file."""
    items = []
    while evidence:
        reader = CborReader(evidence)
        reader.item()
        items.append(evidence[: reader.position])
        evidence = evidence[reader.position :]
    return items
