"""Check keys against an archive: which of them open it, without reading the payload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from ..codecs.age import AgeIdentity, age_key_check
from ..codecs.keyring import Keyring, RingKey
from ..codecs.keys import EncryptionKey, Passphrase, PrivateKey
from ..codecs.ktb2 import key_check
from ..contracts import ArchiveSink, EncryptionCodec
from ..errors import ManifestError, NoMatchingKeyError, TamperedError
from ..model.manifest import CodecSpec, Manifest
from ..model.signatures import SignaturePolicy
from .read import head_of, read_details, read_manifest

__all__ = ["KeyCheck", "KeyCheckReport", "check_keys"]


@attrs.frozen(kw_only=True)
class KeyCheck:
    """What one key can do."""

    key: RingKey
    """Shows its id at most."""
    opens: bool

    def __str__(self) -> str:
        """Return the key and what it can do."""
        return f"{self.key!r} {'opens it' if self.opens else 'does not open it'}"


@attrs.frozen(kw_only=True)
class KeyCheckReport:
    """Which of some keys open an archive."""

    archive_id: str
    codec: CodecSpec | None
    """How the archive is sealed, with the ids of the keys that open it; `None` when it is not, and needs no key."""
    checks: tuple[KeyCheck, ...]
    """One per key, in the order given."""

    @property
    def opens(self) -> bool:
        """Whether the archive opens with what was given."""
        return self.codec is None or any(check.opens for check in self.checks)

    def __str__(self) -> str:
        """Return one line per key, after one for the archive."""
        if self.codec is None:
            return f"{self.archive_id} is not sealed"
        wanted = ", ".join(self.codec.key_ids) or "without a key id"
        return "\n".join([f"{self.archive_id} is sealed with {self.codec.name}: {wanted}", *map(str, self.checks)])


def check_keys(
    sink: ArchiveSink, archive_id: str, keys: RingKey | Iterable[RingKey], *, policy: SignaturePolicy | None = None
) -> KeyCheckReport:
    """
    Find out which keys open an archive.

    Reads the header of the artifact where the format keeps keys there (KTB2, age), else the details, which are sealed
    the same way and small (KTB1, enc-v1). A key that opens has been used, not only compared by its id.

    Args:
        sink: Where the archive is; needs the right to read.
        archive_id: As `list_archives` names it.
        keys: To be checked.
        policy: Whose archives are read; `None` does not look at signatures.

    Raises:
        BlobNotFoundError: There is no such archive.
        SignatureError: The policy refuses it.
        IntegrityError: What had to be read is damaged.
        TamperedError: A header was changed.
        UnsupportedFormatError: A newer release wrote it.
        SinkUnavailableError: The store could not be reached.
    """
    ring = Keyring(keys).keys
    manifest = read_manifest(sink, archive_id, policy)
    sealed = [spec for spec in manifest.codecs if spec.name in {known.name for known in Keyring([]).opens}]
    codec = sealed[-1] if sealed else None
    opening = _opening(sink, manifest, codec, ring) if codec else ()
    checks = tuple(KeyCheck(key=key, opens=key in opening) for key in ring)
    return KeyCheckReport(archive_id=archive_id, codec=codec, checks=checks)


def _opening(sink: ArchiveSink, manifest: Manifest, codec: CodecSpec, ring: Sequence[RingKey]) -> Sequence[RingKey]:
    header = head_of(sink, manifest.artifact)
    outermost = codec is manifest.codecs[-1]
    if codec.name == "ktb2" and outermost:
        return key_check(header, [key for key in ring if isinstance(key, (EncryptionKey, PrivateKey, Passphrase))])
    if codec.name == "age" and outermost:
        return age_key_check(header, [key for key in ring if isinstance(key, (AgeIdentity, Passphrase))])
    return [key for key in ring if _opens_details(sink, manifest, Keyring(key))]


def _opens_details(sink: ArchiveSink, manifest: Manifest, codec: EncryptionCodec) -> bool:
    if not manifest.side:
        message = f"the manifest of {manifest.archive_id} names no details to try a key with"
        raise ManifestError(message, archive_id=manifest.archive_id)
    try:
        read_details(sink, manifest, codec)
    except (NoMatchingKeyError, TamperedError):
        # The stored bytes are those of the manifest, or there would have been another error: it is the key.
        return False
    return True
