"""Where a hub is: parsing addresses, canister ids, and the environment variables of the Knowtation tools."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import attrs

from .._transport import is_this_machine
from ..errors import ConfigurationError
from ..model.ids import MANAGEMENT_CANISTER, Principal
from ..model.json_input import check_nesting

__all__ = ["HubAddress", "is_canister_id"]

_HOST_SHAPE = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_IC_DOMAINS = ("icp0.io", "ic0.app", "icp-api.io")
_FULL_EXPORT = ("KNOWTATION_OPERATOR_EXPORT_URL", "KNOWTATION_CANISTER_URL", "KNOWTATION_CANISTER_BACKUP_URL")
_HINT = "give a canister id or a URL such as https://<hub-canister-id>.raw.icp0.io"


def is_canister_id(text: str) -> bool:
    """
    Tell whether *text* is the text form of a principal: base32 in groups of five with a valid checksum.

    Source: IC interface specification, "Textual representation of principals".
    """
    try:
        return Principal.parse(text) != MANAGEMENT_CANISTER
    except ConfigurationError:
        return False


@attrs.frozen(kw_only=True)
class HubAddress:
    """
    The address of one hub, checked; build it with `parse` or `resolve`.

    ``prefix`` and ``query`` frame the path of every request: ``{scheme}://{host}{prefix}{path}{query}``.
    """

    scheme: str
    host: str
    """Lower-case host name with ``:port`` unless it is the default."""
    prefix: str = ""
    query: str = ""
    """Empty, or ``?canisterId=<id>`` for gateways without host names per canister."""

    @classmethod
    def parse(cls, text: str, *, insecure_http: bool = False) -> HubAddress:
        """
        Read an address: a bare canister id, or a URL.

        A bare id means ``https://<id>.raw.icp0.io`` (the host without ``raw`` answers 503 on hub routes). One trailing
        slash is removed. The only query accepted is ``canisterId=<id>``.

        Args:
            text: The address; surrounding white space is ignored.
            insecure_http: Allow plain http to hosts that are not loopback. Keys then travel in the clear.

        Raises:
            ConfigurationError: Not an address, credentials in the URL, or plain http to a remote host. The text is not
                repeated where it may hold a password.
        """
        text = text.strip()
        if is_canister_id(text):
            return cls(scheme="https", host=f"{text}.raw.icp0.io")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise _bad("the hub address is not a URL") from error
        if parts.username is not None or parts.password is not None:
            raise _bad("the hub address holds a user name or password")
        host = (parts.hostname or "").lower()
        bracketed = f"[{host}]" if ":" in host else host
        if parts.scheme not in {"http", "https"} or not _HOST_SHAPE.fullmatch(bracketed):
            raise _bad(f"{text[:80]!r} is neither a canister id nor an http(s) URL")
        if parts.fragment:
            raise _bad("the hub address has a fragment (#...)")
        if parts.scheme == "http" and not insecure_http and not is_this_machine(host):
            message = f"plain http to {bracketed} would send the keys in the clear"
            hint = "use https, or allow it with insecure_http=True on a network you trust"
            raise ConfigurationError(message, kind="insecure_http", hint=hint)
        default_port = {"http": 80, "https": 443}[parts.scheme]
        return cls(
            scheme=parts.scheme,
            host=bracketed if port in {None, default_port} else f"{bracketed}:{port}",
            prefix=quote(parts.path.removesuffix("/"), safe="/%:@!$&'()*+,;=-._~"),
            query=_canister_query(parts.query),
        )

    @classmethod
    def resolve(
        cls,
        environ: Mapping[str, str],
        *,
        ids_file: str | os.PathLike[str] | None = None,
        single_vault: bool = False,
        insecure_http: bool = False,
    ) -> HubAddress:
        """
        Find the address the way the Knowtation tools do (contracts 2.5).

        The first variable that is not blank wins: ``KNOWTATION_OPERATOR_EXPORT_URL`` (not for single vaults),
        ``KNOWTATION_CANISTER_URL``, ``KNOWTATION_CANISTER_BACKUP_URL``; then ``hub.ic`` of the canister id file.

        Args:
            environ: For example `os.environ`; nothing else of the environment is looked at.
            ids_file: A JSON file ``{"hub": {"ic": "<id>"}}``, usually ``hub/icp/canister_ids.json``.
            single_vault: Resolve for the legacy export of single vaults.
            insecure_http: As in `parse`.

        Raises:
            ConfigurationError: Nothing is configured, or the first thing found is not usable.
        """
        for name in _FULL_EXPORT[1 if single_vault else 0 :]:
            value = environ.get(name, "").strip()
            if value:
                return cls.parse(value, insecure_http=insecure_http)
        if ids_file is None:
            message = "no hub address is configured"
            raise ConfigurationError(message, kind="no_hub_address", hint=f"set {_FULL_EXPORT[0]} or pass an ids file")
        return cls.parse(_hub_id(Path(ids_file)))

    @property
    def base_url(self) -> str:
        """The address without trailing slash and query."""
        return f"{self.scheme}://{self.host}{self.prefix}"

    @property
    def canister_id(self) -> str | None:
        """The canister behind this address as far as the address itself says."""
        if self.query:
            return self.query.removeprefix("?canisterId=")
        first = self.host.split(".", 1)[0]
        return first if is_canister_id(first) else None

    @property
    def source_id(self) -> str:
        """What archives name as their source: the canister id, or the host."""
        return self.canister_id or self.host

    @property
    def raw(self) -> HubAddress | None:
        """The same canister behind the ``raw`` host, when this is a verifying host of the public gateways."""
        canister_id, _, domain = self.host.partition(".")
        if domain in _IC_DOMAINS and is_canister_id(canister_id):
            return attrs.evolve(self, host=f"{canister_id}.raw.{domain}")
        return None

    def url(self, path: str) -> str:
        """Return the full URL of *path*, which starts with ``/`` and may have a query."""
        if not self.query:
            return f"{self.base_url}{path}"
        joiner = "&" if "?" in path else "?"
        return f"{self.base_url}{path}{joiner}{self.query[1:]}"

    def __str__(self) -> str:
        """Return the address as a URL."""
        return f"{self.base_url}{self.query}"


def _bad(message: str) -> ConfigurationError:
    return ConfigurationError(message, kind="bad_hub_address", hint=_HINT)


def _canister_query(query: str) -> str:
    if not query:
        return ""
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(pairs) != 1 or pairs[0][0] != "canisterId" or not is_canister_id(pairs[0][1]):
        raise _bad("the only query a hub address may have is canisterId=<canister id>")
    return f"?canisterId={pairs[0][1]}"


def _hub_id(path: Path) -> str:
    try:
        text = path.read_bytes()
        check_nesting(text)
        value = json.loads(text)["hub"]["ic"]
    except OSError as error:
        message = f"the canister id file {path.name} cannot be read: {error.strerror}"
        raise ConfigurationError(message, kind="bad_ids_file") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f'the canister id file {path.name} is not JSON of the form {{"hub": {{"ic": "<id>"}}}}'
        raise ConfigurationError(message, kind="bad_ids_file") from error
    if not isinstance(value, str) or not is_canister_id(value.strip()):
        message = f"hub.ic in {path.name} is not a canister id"
        raise ConfigurationError(message, kind="bad_ids_file")
    return value
