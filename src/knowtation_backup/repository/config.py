"""What a repository says of itself to anybody: ``repository.json``."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, Final

import attrs

from .._checks import above, between, whole_number
from ..errors import ConfigurationError, IntegrityError, UnsupportedFormatError
from ..model.json_input import check_nesting, typed

__all__ = ["FORMAT", "GRACE_SECONDS", "MAX_CHAIN", "MAX_CONFIG_BYTES", "RepositoryConfig"]

FORMAT: Final = "knowtation-repository"
VERSION: Final = 1
MAX_CONFIG_BYTES: Final = 64 << 10
_TENANT_KEYS: Final = "tenant-keys"
_ELSEWHERE: Final = "tenant-keys-elsewhere"
_KNOWN_FEATURES: Final = frozenset({_TENANT_KEYS, _ELSEWHERE})
GRACE_SECONDS: Final = 3 * 86_400.0
MAX_CHAIN: Final = 24
"""Beyond 30, reading opens more frames side by side than readers keep, and gets slow; measured in decision 0011."""
_MAX_GRACE_SECONDS: Final = 100 * 365 * 86_400
"""A finite number, which a span of time can hold."""


@attrs.frozen(kw_only=True)
class RepositoryConfig:
    """What all hosts that use a repository must agree on; chosen when it is made, never changed."""

    repository_id: bytes
    grace_seconds: float = attrs.field(default=GRACE_SECONDS, validator=[above(0), between(0, _MAX_GRACE_SECONDS)])
    """Between the two phases of a prune, a hundred years at most; a backup must not take half as long."""
    max_chain: int = attrs.field(default=MAX_CHAIN, validator=whole_number(1))
    """
    Tables that reading one place may need; the backup that would need more writes a whole table. Fewer cost space, more
    than 30 much time when restoring.
    """
    tenant_keys: bool = False
    """Whether every tenant has a key of its own, so that it can be erased from archives that nobody can delete."""
    tenants_elsewhere: bool = False
    """Whether the keys of tenants are in another place, which whoever opens the repository must name."""

    def __attrs_post_init__(self) -> None:
        """Require that there are keys which may be elsewhere."""
        if self.tenants_elsewhere and not self.tenant_keys:
            message = "a place for keys of tenants is named, and tenants have no keys of their own"
            raise ConfigurationError(message, kind="no_tenant_keys", hint="pass tenant_keys=True, or no tenant_sink")

    @property
    def grace(self) -> dt.timedelta:
        """`grace_seconds`."""
        return dt.timedelta(seconds=self.grace_seconds)

    @property
    def _features(self) -> list[str]:
        needed = {_TENANT_KEYS: self.tenant_keys, _ELSEWHERE: self.tenants_elsewhere}
        return [feature for feature, is_needed in needed.items() if is_needed]

    def to_bytes(self) -> bytes:
        """Return canonical JSON with a final newline."""
        value = {
            "format": FORMAT,
            "format_version": VERSION,
            "repository_id": self.repository_id.hex(),
            "grace_seconds": float(self.grace_seconds),
            "max_chain": self.max_chain,
            "required_features": self._features,
        }
        return (json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> RepositoryConfig:
        """
        Parse what any release of format version 1 wrote.

        Raises:
            IntegrityError: It cannot be read.
            UnsupportedFormatError: A newer format, or a feature this release does not know.
        """
        try:
            check_nesting(data)
            value = json.loads(data)
            if value["format"] != FORMAT:
                raise IntegrityError(
                    f"repository.json names another format: {value['format']!r:.80}", kind="bad_config"
                )
            features = frozenset(typed(value["required_features"], list))
            _check_version(value["format_version"], features)
            return cls(
                repository_id=bytes.fromhex(typed(value["repository_id"], str)),
                grace_seconds=float(value["grace_seconds"]),
                max_chain=typed(value["max_chain"], int),
                tenant_keys=_TENANT_KEYS in features,
                tenants_elsewhere=_ELSEWHERE in features,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            why = error.message if isinstance(error, ConfigurationError) else type(error).__name__
            raise IntegrityError(f"repository.json cannot be read: {why}", kind="bad_config") from error


def _check_version(version: Any, features: frozenset[Any]) -> None:
    hint = "use a newer release of knowtation-backup"
    if version != VERSION:
        message = f"the repository has format version {version!r:.20}; this release reads {VERSION}"
        raise UnsupportedFormatError(message, hint=hint)
    unknown = sorted(map(str, features - _KNOWN_FEATURES))
    if unknown:
        message = f"the repository needs features this release does not know: {', '.join(unknown)[:200]}"
        raise UnsupportedFormatError(message, hint=hint)
