"""Keys of age: recipients that seal, identities that open, named by a short id."""

from __future__ import annotations

import hashlib
import importlib
import re
from typing import Any, Final

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from ..errors import ConfigurationError

__all__ = ["AgeIdentity", "AgeRecipient", "pyrage"]

_ID_CONTEXT: Final = b"knowtation-backup age recipient id v1\x00"
_SSH_KINDS: Final = ("ssh-ed25519", "ssh-rsa")
_SSH_PEM: Final = "-----BEGIN OPENSSH PRIVATE KEY-----"
_SECRET_KEY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]+")


def pyrage() -> Any:
    """
    Return the package that reads and writes age.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return importlib.import_module("pyrage")
    except ImportError as error:
        hint = "install knowtation-backup[age]"
        raise ConfigurationError("age needs the package pyrage", kind="missing_extra", hint=hint) from error


@attrs.frozen(kw_only=True)
class AgeRecipient:
    """A public key that seals: ``age1…``, or an SSH key of kind ``ssh-ed25519`` or ``ssh-rsa``."""

    text: str = attrs.field(repr=False)
    vendor_key: Any = attrs.field(repr=False, eq=False)
    """The key as `pyrage` wants it."""

    def __repr__(self) -> str:
        """Return class and key id."""
        return f"AgeRecipient(key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """16 hexadecimal digits that name the pair; recorded in manifests. The age file itself names no X25519 keys."""
        return hashlib.sha256(_ID_CONTEXT + self.text.encode()).hexdigest()[:16]

    @classmethod
    def from_text(cls, text: str) -> AgeRecipient:
        """
        Parse one recipient, as ``age -r`` takes it; the comment of an SSH key is dropped.

        Raises:
            ConfigurationError: Not such a text (``bad_key_text``), or `pyrage` is not installed.
        """
        words = text.split()
        first = words[0] if words else ""
        if first.upper().startswith("AGE-SECRET-KEY-"):
            hint = "pass AgeIdentity.from_text(…).recipient"
            raise ConfigurationError("this is a secret age identity, no recipient", kind="bad_key_text", hint=hint)
        library = pyrage()
        try:
            if first in _SSH_KINDS:
                canonical = " ".join(words[:2])
                return cls(text=canonical, vendor_key=library.ssh.Recipient.from_str(canonical))
            if len(words) == 1:
                vendor_key = library.x25519.Recipient.from_str(first)
                return cls(text=str(vendor_key), vendor_key=vendor_key)  # one spelling, so one key id
        except library.RecipientError:
            pass
        message = f"this text of {len(text)} characters is no age recipient"
        hint = f"age1… as age-keygen prints, or a public key of kind {' or '.join(_SSH_KINDS)}"
        raise ConfigurationError(message, kind="bad_key_text", hint=hint)


@attrs.frozen(kw_only=True)
class AgeIdentity:
    """A secret key that opens. It is in no ``repr``, error or log. Parse with `from_text`."""

    text: str = attrs.field(repr=False)
    """``AGE-SECRET-KEY-1…``, or an SSH private key in PEM: what you store."""
    recipient: AgeRecipient
    """The public half."""
    vendor_key: Any = attrs.field(repr=False, eq=False)

    def __repr__(self) -> str:
        """Return class and key id."""
        return f"AgeIdentity(key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """That of the recipient."""
        return self.recipient.key_id

    @classmethod
    def generate(cls) -> AgeIdentity:
        """Make a new random identity. Keep ``identity.text`` where the backups are not."""
        return cls._of(pyrage().x25519.Identity.generate())

    @classmethod
    def from_text(cls, text: str) -> AgeIdentity:
        """
        Parse one identity: the text itself, the file that ``age-keygen`` writes, or an SSH private key in PEM.

        Raises:
            ConfigurationError: Not such a text, several identities, an SSH key with a passphrase or of another kind
                (``bad_key_text``); or `pyrage` is not installed. The content is not repeated.
        """
        if text.lstrip().startswith(_SSH_PEM):
            return cls._from_ssh(text)
        lines = [line.strip() for line in text.splitlines()]
        secrets = [line for line in lines if line and not line.startswith("#")]
        if len(secrets) == 1 and _SECRET_KEY.fullmatch(secrets[0].upper()):
            library = pyrage()
            try:
                return cls._of(library.x25519.Identity.from_str(secrets[0]))
            except library.IdentityError:
                pass  # the chain could repeat a secret
        what = f"{len(secrets)} lines of it are no comments" if len(secrets) != 1 else "its one line is none"
        message = f"this text is not one age identity: {what}"
        raise ConfigurationError(message, kind="bad_key_text", hint="AGE-SECRET-KEY-1… as age-keygen writes")

    @classmethod
    def _of(cls, vendor_key: Any) -> AgeIdentity:
        public = vendor_key.to_public()
        return cls(
            text=str(vendor_key),
            recipient=AgeRecipient(text=str(public), vendor_key=public),
            vendor_key=vendor_key,
        )

    @classmethod
    def _from_ssh(cls, text: str) -> AgeIdentity:
        library = pyrage()
        data = text.encode(errors="replace")
        try:
            public = load_ssh_private_key(data, None).public_key()
            recipient = AgeRecipient.from_text(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())
            return cls(text=text, recipient=recipient, vendor_key=library.ssh.Identity.from_buffer(data))
        except (ValueError, TypeError, UnsupportedAlgorithm, library.IdentityError):
            pass  # the chain could repeat a secret
        message = "this is no SSH private key that age can use"
        hint = f"of kind {' or '.join(_SSH_KINDS)}, without a passphrase: ssh-keygen -p -N '' on a copy"
        raise ConfigurationError(message, kind="bad_key_text", hint=hint)
