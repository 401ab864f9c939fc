"""Where the network is reached: the address of a replica, or of an API boundary node."""

from __future__ import annotations

from typing import Final, Self
from urllib.parse import urlsplit

import attrs
import httpx

from .._transport import is_this_machine
from ..errors import ConfigurationError

__all__ = ["MAINNET", "NodeAddress"]

MAINNET: Final = "https://icp-api.io"
"""The API boundary nodes of the Internet Computer."""

_MAINNET_DOMAINS: Final = (
    "icp-api.io",
    "ic0.app",
    "icp0.io",
    "icp1.io",
    "icp.net",
    "internetcomputer.org",
    "dfinity.network",
)
_HINT: Final = "give a URL such as https://icp-api.io, without path"


@attrs.frozen(kw_only=True)
class NodeAddress:
    """A checked address; build it with `parse`."""

    scheme: str
    host: str
    """Lower-case host name with ``:port`` unless it is the default."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a URL without path, query and credentials; plain http only for this machine.

        Raises:
            ConfigurationError: Kinds ``bad_url``, ``insecure_http``. The text is not repeated: it may hold a password.
        """
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError as error:
            raise ConfigurationError("the network's address is not a URL", kind="bad_url", hint=_HINT) from error
        host = (parts.hostname or "").lower()
        if parts.username is not None or parts.password is not None:
            message = "the network's address holds a user name or password"
            raise ConfigurationError(message, kind="bad_url", hint=_HINT)
        plain = parts.path in {"", "/"} and not parts.query and not parts.fragment
        if parts.scheme not in {"http", "https"} or not host or not plain:
            raise ConfigurationError("the network's address is not a plain URL", kind="bad_url", hint=_HINT)
        if parts.scheme == "http" and not is_this_machine(host):
            message = f"plain http to {host[:80]} would let anybody on the way read and delay requests"
            hint = "use https; plain http is for networks on this machine"
            raise ConfigurationError(message, kind="insecure_http", hint=hint)
        bracketed = _ascii(f"[{host}]" if ":" in host else host)
        default_port = {"http": 80, "https": 443}[parts.scheme]
        return cls(scheme=parts.scheme, host=bracketed if port in {None, default_port} else f"{bracketed}:{port}")

    @property
    def is_mainnet(self) -> bool:
        """Whether this is a known host of the Internet Computer, whose root key is known and never fetched."""
        name = self.host.rpartition(":")[0] if self.host.rpartition(":")[2].isdigit() else self.host
        name = name.rstrip(".")
        return any(name == domain or name.endswith(f".{domain}") for domain in _MAINNET_DOMAINS)

    def __str__(self) -> str:
        """Return the URL."""
        return f"{self.scheme}://{self.host}"


def _ascii(host: str) -> str:
    """Return a host as it is connected to: names beyond ASCII, even their dots, are written in many ways."""
    try:
        url = httpx.URL(f"https://{host}")
        url.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        raise ConfigurationError("the network's address holds no host name", kind="bad_url", hint=_HINT) from None
    return host if host.startswith("[") else url.raw_host.decode("ascii")
