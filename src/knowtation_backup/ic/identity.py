"""
Who asks: keys that sign requests, delegations, and adapters for the identities of other libraries.

A private key stays inside one object, which does not show, compare or pickle it.

Source:
    IC interface specification, "Authentication"; internet-computer reference, A.4.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, Self, runtime_checkable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from .._engine.local_files import os_errors_translated, read_range
from ..errors import ConfigurationError
from ..model.ids import ANONYMOUS, Principal
from ..model.reports import Finding
from .delegation_chain import DelegationChain, SignedDelegation

__all__ = [
    "AnonymousIdentity",
    "DelegatedIdentity",
    "Identity",
    "KeyIdentity",
    "SignedDelegation",
    "identity_from_pem",
    "identity_from_pem_file",
    "identity_of",
    "key_file_findings",
]

_CURVES: Final = {"secp256k1": "secp256k1", "secp256r1": "P-256"}
_MOST_PEM_BYTES: Final = 65_536
_PEM_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----.*?-----END \1-----", re.DOTALL)
_ED25519_V2: Final = re.compile(rb"\x30.\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20(.{32})", re.DOTALL)
"""PKCS#8 of version 2, which carries the public key too; older dfx writes it."""
_EC_VERSION_1: Final = re.compile(rb"(\x30(?:[\x00-\x7f]|\x81.)\x02\x01)\x01(?=\x30)", re.DOTALL)
"""PKCS#8 of an elliptic curve under a version that is not its own; ic-py and icp-py-core write it."""


@runtime_checkable
class Identity(Protocol):
    """Who signs requests. Thread-safe."""

    @property
    def sender(self) -> Principal:
        """Who the requests are from."""

    @property
    def public_key(self) -> bytes | None:
        """The key that ``sender`` is made of, in DER form; `None` for the anonymous user."""

    @property
    def delegations(self) -> tuple[SignedDelegation, ...]:
        """From ``public_key`` to the key that signs; empty when that is the same."""

    def sign(self, message: bytes, /) -> bytes:
        """Return the plain signature of *message*: for ECDSA both numbers, 32 bytes each."""


class _Secretive:
    """Refuses to be pickled or copied into text: whoever needs the key elsewhere reads its file there."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(getattr(self, 'sender', ''))!r})"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        message = f"a {type(self).__name__} cannot be pickled: its key would leave this process"
        hint = "read the key file in the other process"
        raise ConfigurationError(message, kind="secret_pickled", hint=hint)

    def __copy__(self) -> _Secretive:
        return self

    def __deepcopy__(self, _memo: object) -> _Secretive:
        return self


class AnonymousIdentity:
    """The user who signs nothing."""

    sender: Principal = ANONYMOUS
    public_key: bytes | None = None
    delegations: tuple[SignedDelegation, ...] = ()

    def sign(self, message: bytes, /) -> bytes:  # noqa: ARG002 - part of the protocol
        """Refuse: anonymous requests carry no signature."""
        raise ConfigurationError("the anonymous user cannot sign", kind="anonymous", hint="pass an identity")

    def __repr__(self) -> str:
        return "AnonymousIdentity()"


class KeyIdentity(_Secretive):
    """
    Signs with a key of its own: Ed25519, ECDSA over secp256k1 or over P-256.

    Made by `identity_from_pem`, or by `generate`.
    """

    __slots__ = ("_key", "public_key", "sender")

    delegations: tuple[SignedDelegation, ...] = ()

    def __init__(self, key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public_key: bytes | None = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.sender: Principal = Principal.self_authenticating(self.public_key or b"")

    @classmethod
    def generate(cls) -> Self:
        """Return an identity with a new Ed25519 key; its principal must be made a controller to be of use."""
        return cls(ed25519.Ed25519PrivateKey.generate())

    def to_pem(self, *, password: bytes | None = None) -> bytes:
        """
        Return the private key as PKCS#8, to be kept; everything else about an identity hides it.

        Args:
            password: Encrypts it; without one, whoever reads the file is the identity.
        """
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)

    def sign(self, message: bytes, /) -> bytes:
        """Return the signature of *message*, 64 bytes."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(message)
        first, second = decode_dss_signature(self._key.sign(message, ec.ECDSA(hashes.SHA256())))
        return first.to_bytes(32, "big") + second.to_bytes(32, "big")


class DelegatedIdentity(_Secretive):
    """
    Signs with one key for somebody else, who delegated to it.

    Args:
        inner: Holds the last key of the chain.
        chain: From the sender's key to that key; see `DelegationChain.from_json`.

    Raises:
        ConfigurationError: Kind ``delegation_key``: the chain does not end at the key of *inner*.
    """

    __slots__ = ("_chain", "_inner")

    def __init__(self, inner: Identity, chain: DelegationChain) -> None:
        if inner.public_key != chain.last_key or inner.delegations:
            message = "the delegation is for another key than the one at hand"
            hint = "delegation and key file belong together: make or export both anew"
            raise ConfigurationError(message, kind="delegation_key", hint=hint)
        self._inner = inner
        self._chain = chain

    @property
    def sender(self) -> Principal:
        """Who delegated."""
        return Principal.self_authenticating(self._chain.public_key)

    @property
    def public_key(self) -> bytes | None:
        """The key of who delegated."""
        return self._chain.public_key

    @property
    def delegations(self) -> tuple[SignedDelegation, ...]:
        """The chain."""
        return self._chain.delegations

    @property
    def chain(self) -> DelegationChain:
        """The chain with its checks: `DelegationChain.check_at`, ``expires_at_ns``, ``targets``."""
        return self._chain

    def sign(self, message: bytes, /) -> bytes:
        """Return the signature of the last key."""
        return self._inner.sign(message)


def identity_from_pem(pem: str | bytes, *, password: bytes | None = None) -> KeyIdentity:
    """
    Read a private key: PKCS#8 or SEC1, as written by dfx, icp, quill and openssl.

    Args:
        pem: The text. Other blocks in it, such as ``EC PARAMETERS``, are skipped.
        password: Of an encrypted key.

    Raises:
        ConfigurationError: Kinds ``bad_pem`` (not one private key), ``pem_password`` (missing or wrong) and
            ``key_type`` (no key that the Internet Computer knows).
    """
    data = pem.encode("utf-8", "replace") if isinstance(pem, str) else bytes(pem)
    blocks = [match for match in _PEM_BLOCK.finditer(data[:_MOST_PEM_BYTES]) if match[1].endswith(b"PRIVATE KEY")]
    if len(blocks) != 1 or len(data) > _MOST_PEM_BYTES:
        message = f"{len(blocks)} private keys were found in PEM text where one was expected"
        raise ConfigurationError(message, kind="bad_pem", hint="give the text of one file with BEGIN … PRIVATE KEY")
    return KeyIdentity(_checked(_private_key(blocks[0][0], password)))


def _private_key(block: bytes, password: bytes | None) -> object:
    try:
        return serialization.load_pem_private_key(block, password)
    except TypeError:
        # No "from": what the library says about keys and passwords is not ours to show.
        given = password is not None
        message = "the key is not encrypted, but a password was given" if given else "the key is encrypted"
        raise ConfigurationError(message, kind="pem_password", hint="password= goes with encrypted keys") from None
    except (ValueError, UnsupportedAlgorithm):
        key = _key_of_another_form(block)
        if key is not None:
            return key
        if password is not None:
            message = "the password does not open the key, or the key is damaged"
            raise ConfigurationError(message, kind="pem_password", hint="check password and file") from None
        message = "the PEM text does not hold a private key that can be read"
        hint = "Ed25519, secp256k1 and P-256 keys are read, in PKCS#8 or SEC1 form"
        raise ConfigurationError(message, kind="bad_pem", hint=hint) from None


def _key_of_another_form(block: bytes) -> object | None:
    """Return a key in one of two forms that the library does not read."""
    try:
        data = base64.b64decode(b"".join(block.splitlines()[1:-1]), validate=True)
    except binascii.Error:
        return None
    match = _ED25519_V2.match(data)
    if match is not None:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(match[1])
        return key if data.endswith(key.public_key().public_bytes_raw()) else None
    match = _EC_VERSION_1.match(data)
    if match is None:
        return None
    try:
        return serialization.load_der_private_key(match[1] + b"\x00" + data[match.end() :], None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _checked(key: object) -> ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key
    name = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.lstrip("_")
    message = f"the Internet Computer does not know keys of this type ({name})"
    raise ConfigurationError(message, kind="key_type", hint="use an Ed25519, secp256k1 or P-256 key")


def identity_from_pem_file(path: str | os.PathLike[str], *, password: bytes | None = None) -> KeyIdentity:
    """
    Read a private key from a file; see `identity_from_pem`, and `key_file_findings` for who else may read it.

    Raises:
        ConfigurationError: As `identity_from_pem`, naming the file.
        BlobNotFoundError: There is no such file.
        SinkPermissionError: Reading is refused.
    """
    name = Path(path).name
    with os_errors_translated(f"reading the key file {name}"):
        # Not blocking: the path may name a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigurationError(
                    f"the key file {name} is no regular file", kind="bad_pem", hint="name the file itself"
                )
            data = b"".join(read_range(descriptor, 0, _MOST_PEM_BYTES + 1))
        finally:
            os.close(descriptor)
    try:
        return identity_from_pem(data, password=password)
    except ConfigurationError as error:
        message = f"{name}: {error.message}"
        raise ConfigurationError(message, kind=error.kind, hint=error.hint) from None


def key_file_findings(path: str | os.PathLike[str], *, in_ci: bool = False) -> tuple[Finding, ...]:
    """
    Return what speaks against the way a key file is kept: who else may read or change it, and where it lies.

    Args:
        path: Of the file.
        in_ci: Whether this is a build environment, as most of them say with the variable ``CI``. What runs there comes
            from many hands, and a key without a password controls the canister for whoever of them reads it.

    Raises:
        BlobNotFoundError: There is no such file.
        SinkPermissionError: Reading is refused.
    """
    where = os.fspath(path)
    findings = []
    with os_errors_translated(f"looking at the key file {Path(path).name}"):
        mode = Path(path).stat().st_mode
        plain = in_ci and stat.S_ISREG(mode) and not _is_encrypted(Path(path))
    if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        who = "everybody" if mode & (stat.S_IROTH | stat.S_IWOTH) else "its group"
        message = f"the key file is open to {who} on this machine (mode {stat.S_IMODE(mode):04o}): chmod 600"
        findings.append(Finding(code="key_file_open", where=where, message=message))
    if plain:
        message = (
            "a key without a password lies in a build environment: give the build a controller of its own that can do "
            "nothing else, or a key with a password from the secrets of the build"
        )
        findings.append(Finding(code="key_in_ci", where=where, message=message))
    return tuple(findings)


def _is_encrypted(path: Path) -> bool:
    with path.open("rb") as file:
        return b"ENCRYPTED" in file.read(_MOST_PEM_BYTES)


class _ForeignIdentity(_Secretive):
    """An identity of ic-py's or icp-py-core's shape; its printed form, which shows the key, is never used."""

    __slots__ = ("_sign", "delegations", "public_key", "sender")

    def __init__(
        self, sign: Callable[[bytes], Any], public_key: bytes, delegations: tuple[SignedDelegation, ...]
    ) -> None:
        self._sign = sign
        self.public_key: bytes | None = public_key
        self.sender: Principal = Principal.self_authenticating(public_key)
        self.delegations = delegations

    def sign(self, message: bytes, /) -> bytes:
        try:
            _, signature = self._sign(message)
            return bytes(signature)
        except Exception as error:  # noqa: BLE001 - other people's code may raise anything
            # Neither its text nor its frames: the key may be in both.
            text = f"the given identity failed to sign ({type(error).__name__})"
            raise ConfigurationError(
                text, kind="bad_identity", hint="identity_from_pem_file() reads the key itself"
            ) from None


def identity_of(value: object) -> Identity:
    """
    Return *value* as an identity: one of ours, or an ``Identity`` or ``DelegateIdentity`` of ic-py or icp-py-core.

    Raises:
        ConfigurationError: Kind ``bad_identity``: it is none.
    """
    if isinstance(value, (AnonymousIdentity, _Secretive)):
        return value  # type: ignore[return-value]
    if getattr(value, "anonymous", False) is True:
        return AnonymousIdentity()
    sign, key = getattr(value, "sign", None), getattr(value, "der_pubkey", None)
    if callable(sign) and isinstance(key, (bytes, bytearray)):
        links = getattr(value, "delegations", None) or ()
        return _ForeignIdentity(sign, bytes(key), _foreign_links(links))
    if callable(sign) and isinstance(value, Identity) and isinstance(value.sender, Principal):
        return value
    # Not repr(value): the identities of other libraries print their keys.
    message = f"a {type(value).__name__} is not an identity"
    hint = "use identity_from_pem_file(), or an identity of ic-py or icp-py-core"
    raise ConfigurationError(message, kind="bad_identity", hint=hint)


def _foreign_links(links: Iterable[Any]) -> tuple[SignedDelegation, ...]:
    try:
        return tuple(SignedDelegation.of(link) for link in links)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ConfigurationError(
            "the delegations of the given identity are malformed", kind="bad_delegation", hint="log in again"
        ) from None
