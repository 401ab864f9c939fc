"""
`Repository`: a sink with keys, and what follows from both: its archives, and who may open it.

What happens to archives is in ``operations.repository``; nothing here reads or writes content.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable

import attrs

from .._checks import whole_number
from .._engine.prefetch import prefetch
from ..codecs.keys import KeyKind
from ..codecs.ktb2 import Argon2Parameters, OpeningKey, SealingKey
from ..codecs.signing import SigningKey
from ..contracts import ArchiveSink
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    DecryptionError,
    IntegrityError,
    RepositoryExistsError,
    RepositoryNotFoundError,
    UnsupportedFormatError,
)
from ..model.signatures import SignaturePolicy
from .access import open_access, opening_keys, put_access, sealing_keys
from .config import GRACE_SECONDS, MAX_CHAIN, MAX_CONFIG_BYTES, RepositoryConfig
from .keys import ReadKeys, WriterKey
from .layout import ARCHIVE_PREFIX, CONFIG_KEY, archive_id_at
from .manifest import ArchiveManifest
from .reading import read_archive_manifest
from .signing import require_signed

__all__ = ["ListedArchive", "Repository"]


@attrs.frozen(kw_only=True)
class ListedArchive:
    """An archive of a listing; what of it could be read."""

    archive_id: str
    manifest: ArchiveManifest | None = None
    error: BackupError | None = None
    """Why the manifest could not be read, or is refused as nobody trusted signed it; `None` when it was read."""


def _signers(keys: SigningKey | Iterable[SigningKey]) -> tuple[SigningKey, ...]:
    return (keys,) if isinstance(keys, SigningKey) else tuple(keys)


@attrs.frozen(kw_only=True)
class Repository:
    """
    A repository that is open: to be read and written, or to be written only.

    May be used by several threads as far as its sink allows, and by several processes and hosts at once.
    """

    sink: ArchiveSink
    keys: ReadKeys | WriterKey = attrs.field(repr=False)
    config: RepositoryConfig
    tenants_at: ArchiveSink | None = None
    """Where the keys of tenants are, when that is another place than `sink`; given exactly when `config` says so."""
    parallel_reads: int = attrs.field(default=8, validator=whole_number(1))
    """Manifests read at once."""
    expects_access: bool = False
    """Whether there must be an access file: not where the secrets are kept by somebody else, see `create_with`."""
    signatures: SignaturePolicy | None = None
    """Whose archives are read, taken for parents and counted; `None` does not look at signatures."""
    signing_keys: tuple[SigningKey, ...] = attrs.field(default=(), converter=_signers, repr=False)
    """Each signs every archive that is written; one key, or several while readers change from one to the other."""

    def __attrs_post_init__(self) -> None:
        """Refuse to take every tenant for erased because its key is looked for in the wrong place."""
        if self.config.tenants_elsewhere and self.tenants_at is None:
            message = f"the keys of tenants of the repository in {self.sink.location} are in another place"
            raise ConfigurationError(message, kind="tenant_sink_needed", hint="name it with tenant_sink=")
        if self.tenants_at is not None and not self.config.tenants_elsewhere:
            what = "lie with it" if self.config.tenant_keys else "do not exist"
            message = f"the keys of tenants of the repository in {self.sink.location} {what}"
            raise ConfigurationError(message, kind="tenant_sink_unexpected", hint="open it without tenant_sink=")

    @classmethod
    def create(  # noqa: PLR0913 - the last six have defaults
        cls,
        sink: ArchiveSink,
        *,
        seal_to: SealingKey | Iterable[SealingKey],
        kind: KeyKind = KeyKind.MLKEM768_X25519,
        grace_seconds: float = GRACE_SECONDS,
        max_chain: int = MAX_CHAIN,
        tenant_keys: bool = False,
        kdf: Argon2Parameters | None = None,
        tenant_sink: ArchiveSink | None = None,
    ) -> Repository:
        """
        Make a repository with new secrets, which each of the recipients can open from now on.

        Access files are written first and ``repository.json`` last: whoever finds a repository can open it. What a
        crash leaves are access files of no repository, which nobody takes for others.

        Args:
            sink: Where to; needs the rights to list, read and create.
            seal_to: The recipients: keys, passphrases and public keys.
            kind: Of the repository key.
            grace_seconds: See `RepositoryConfig`.
            max_chain: Same.
            tenant_keys: Same.
            kdf: What passphrases cost to try; `None` means the defaults of KTB2.
            tenant_sink: Where keys of tenants go, one that allows deleting; `None`: with everything else. The
                repository says that they are in another place, and is not opened without its being named.

        Raises:
            RepositoryExistsError: There is one already; nothing was written.
            ConfigurationError: Nobody could open it, or an option is out of its bounds; kind ``no_tenant_keys``:
                *tenant_sink* without *tenant_keys*. Nothing was written.
            SinkError: Storing failed.
        """
        recipients = sealing_keys(seal_to)
        keys = ReadKeys.generate(kind)
        config = RepositoryConfig(
            repository_id=keys.repository_id,
            grace_seconds=grace_seconds,
            max_chain=max_chain,
            tenant_keys=tenant_keys,
            tenants_elsewhere=tenant_sink is not None,
        )
        if not sink.is_free(CONFIG_KEY):
            raise _exists(sink)
        for recipient in recipients:
            put_access(sink, keys, recipient, kdf=kdf)
        made = cls.create_with(sink, keys, config, tenant_sink=tenant_sink)
        return attrs.evolve(made, expects_access=True)

    @classmethod
    def open(
        cls,
        sink: ArchiveSink,
        keys: WriterKey | OpeningKey | Iterable[OpeningKey],
        *,
        tenant_sink: ArchiveSink | None = None,
        signatures: SignaturePolicy | None = None,
        signing_keys: SigningKey | Iterable[SigningKey] = (),
    ) -> Repository:
        """
        Open a repository: to be read and written with the key of a recipient, to be written only with a writer key.

        Args:
            sink: Where it is.
            keys: One or several; of several access files that open, the newest is taken.
            tenant_sink: Where keys of tenants are; the same as when it was created.
            signatures: Whose archives are read, taken for parents and counted; `None` does not look at signatures.
            signing_keys: Who signs what is written. A host that signs should name a policy too, or it may build on, and
                so vouch for the presence of, what somebody else wrote.

        Raises:
            RepositoryNotFoundError: There is none.
            NoMatchingKeyError: None of the keys opens it.
            ConfigurationError: The writer key is of another repository, kind ``wrong_repository``; keys of tenants are
                in another place, ``tenant_sink_needed``, or in none, ``tenant_sink_unexpected``.
            UnsupportedFormatError: It is of a newer format.
            BlobNotFoundError: Its access files are missing, kind ``no_access_file``.
            IntegrityError: They are damaged.
        """
        if isinstance(keys, WriterKey):
            opened = cls.open_with(
                sink, keys, tenant_sink=tenant_sink, signatures=signatures, signing_keys=signing_keys
            )
            return attrs.evolve(opened, expects_access=True)
        opening = opening_keys(keys)
        config = read_config(sink)
        secrets = open_access(sink, opening, config.repository_id)
        return cls(
            sink=sink,
            keys=secrets,
            config=config,
            tenants_at=tenant_sink,
            expects_access=True,
            signatures=signatures,
            signing_keys=signing_keys,
        )

    @classmethod
    def create_with(
        cls, sink: ArchiveSink, keys: ReadKeys, config: RepositoryConfig, *, tenant_sink: ArchiveSink | None = None
    ) -> Repository:
        """
        Make a repository whose secrets are at hand; nothing keeps them but the caller. See `create`.

        With *tenant_sink* it says that keys of tenants are elsewhere, whatever *config* says.

        Raises:
            RepositoryExistsError: There is one already.
            ConfigurationError: The keys are of another one, kind ``wrong_repository``; ``tenant_sink_needed``: *config*
                says that keys of tenants are elsewhere, and not where. Nothing was written.
            SinkError: Storing failed.
        """
        if config.repository_id != keys.repository_id:
            raise ConfigurationError("the keys are of another repository", kind="wrong_repository")
        if tenant_sink is not None:
            config = attrs.evolve(config, tenants_elsewhere=True)
        made = cls(sink=sink, keys=keys, config=config, tenants_at=tenant_sink)
        try:
            sink.put(CONFIG_KEY, (config.to_bytes(),))
        except BlobExistsError:  # perhaps ours, of an attempt whose answer was lost
            if b"".join(sink.read(CONFIG_KEY, size_bytes=MAX_CONFIG_BYTES)) != config.to_bytes():
                raise _exists(sink) from None
        return made

    @classmethod
    def open_with(
        cls,
        sink: ArchiveSink,
        keys: ReadKeys | WriterKey,
        *,
        tenant_sink: ArchiveSink | None = None,
        signatures: SignaturePolicy | None = None,
        signing_keys: SigningKey | Iterable[SigningKey] = (),
    ) -> Repository:
        """
        Open a repository with its secrets, or with a writer key; see `open`.

        Raises:
            RepositoryNotFoundError: There is none.
            ConfigurationError: The keys are of another one, kind ``wrong_repository``; or *tenant_sink* as for `open`.
            UnsupportedFormatError: It is of a newer format.
        """
        config = read_config(sink)
        if config.repository_id != keys.repository_id:
            message = f"the keys are not those of the repository in {sink.location}"
            raise ConfigurationError(message, kind="wrong_repository")
        return cls(
            sink=sink,
            keys=keys,
            config=config,
            tenants_at=tenant_sink,
            signatures=signatures,
            signing_keys=signing_keys,
        )

    @property
    def trusting_anybody(self) -> Repository:
        """The same without a signature policy: for what must heed every manifest there is, before something goes."""
        return attrs.evolve(self, signatures=None)

    @property
    def tenant_sink(self) -> ArchiveSink:
        """Where the keys of tenants are."""
        return self.tenants_at if self.tenants_at is not None else self.sink

    @property
    def writer_key(self) -> WriterKey:
        """What a host needs that may write and not read."""
        return self.keys if isinstance(self.keys, WriterKey) else self.keys.writer_key

    @property
    def read_keys(self) -> ReadKeys:
        """
        The secrets.

        Raises:
            ConfigurationError: It is open to be written only, kind ``write_only``.
        """
        if isinstance(self.keys, WriterKey):
            message = "this repository was opened with a writer key, which reads no content"
            raise ConfigurationError(message, kind="write_only", hint="open it with the key of a recipient")
        return self.keys

    def manifest(self, archive_id: str) -> ArchiveManifest:
        """
        Return the manifest of an archive, if it is signed as `signatures` wants.

        Raises:
            BlobNotFoundError: There is no such archive.
            SignatureError: The policy refuses it; nothing of it was read.
            ManifestError: It cannot be read; `IntegrityError`, `TamperedError`: it was changed.
        """
        require_signed(self.sink, archive_id, self.signatures)
        return read_archive_manifest(self.sink, self.keys, archive_id)

    def archive_ids(self) -> list[str]:
        """Return the ids of all archives, sorted: oldest content first."""
        found = (archive_id_at(info.key) for info in self.sink.list(ARCHIVE_PREFIX))
        return sorted(archive_id for archive_id in found if archive_id is not None)

    def archives(self, archive_ids: Iterable[str] | None = None) -> Generator[ListedArchive, None, None]:
        """
        Read the manifests of archives, several at once: of all, oldest content first, or in the order given.

        One that cannot be read, or is refused by the policy, is yielded with its error; one that is gone by then is
        left out. Whoever stops early closes the iterator.

        Raises:
            SinkError: The store could not be reached, or refuses.
        """
        wanted = self.archive_ids() if archive_ids is None else list(archive_ids)
        window = 4 * self.parallel_reads
        with contextlib.closing(prefetch(self._listed, wanted, workers=self.parallel_reads, window=window)) as listed:
            for found in listed:
                if found is not None:
                    yield found

    def _listed(self, archive_id: str) -> ListedArchive | None:
        try:
            return ListedArchive(archive_id=archive_id, manifest=self.manifest(archive_id))
        except BlobNotFoundError:
            return None
        except BackupError as error:
            if error.retryable or not _is_damage(error):
                raise
            return ListedArchive(archive_id=archive_id, error=error)


def _exists(sink: ArchiveSink) -> RepositoryExistsError:
    message = f"there is a repository in {sink.location} already"
    return RepositoryExistsError(message, hint="open it, or choose another place")


def _is_damage(error: BackupError) -> bool:
    return isinstance(error, IntegrityError | DecryptionError | UnsupportedFormatError)


def read_config(sink: ArchiveSink) -> RepositoryConfig:
    """
    Return what a repository says of itself.

    Raises:
        RepositoryNotFoundError: There is none.
    """
    try:
        return RepositoryConfig.from_bytes(sink.read_all(CONFIG_KEY, limit_bytes=MAX_CONFIG_BYTES))
    except BlobNotFoundError:
        message = f"there is no repository in {sink.location}"
        raise RepositoryNotFoundError(message, hint="make one with Repository.create") from None
