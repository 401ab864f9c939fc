"""
Compression: gzip, zstd, brotli and xz, in forms the standard tools read.

Every form is a plain file of its kind: nothing about an archive has to be known to open it with ``gzip -d``, ``zstd
-d``, ``brotli -d`` or ``xz -d``. The same bytes give the same file, however they were cut on the way and however many
threads there are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import attrs

from .._checks import Validator, between, one_of, optional
from .._engine.ahead import processors
from .._engine.chunking import stopping
from ..contracts import CompressionCodec, ReadBlob
from ..errors import ConfigurationError
from ..model.manifest import CodecSpec
from . import _brotli, _gzip, _xz, _zstd
from ._streams import Expand, UnwrapLimits, limited

__all__ = ["Compression", "compression_for"]

_MOST_THREADS: Final = 8


@attrs.frozen(kw_only=True)
class _Format:
    name: str
    suffix: str
    default_level: int
    pack: Callable[..., Iterator[tuple[int, bytes]]]
    expand: Callable[[int], Expand]
    """Given the number of threads."""
    filler: Callable[[int], bytes] | None = None
    package: Callable[[], object] | None = None


def _zstd_expand(workers: int) -> Expand:
    return functools.partial(_zstd.expand, workers=workers)


_ZSTD: Final = _Format(
    name="zstd",
    suffix=".zst",
    default_level=3,
    pack=_zstd.pack,
    expand=_zstd_expand,
    filler=_zstd.filler,
    package=_zstd.package,
)
_FORMATS: Final = {
    "auto": attrs.evolve(_ZSTD, pack=_zstd.pack_auto),
    "gzip": _Format(
        name="gzip",
        suffix=".gz",
        default_level=6,
        pack=_gzip.pack,
        expand=lambda _workers: _gzip.expand,
        filler=_gzip.filler,
    ),
    "zstd": _ZSTD,
    "brotli": _Format(
        name="brotli",
        suffix=".br",
        default_level=6,
        pack=_brotli.pack,
        expand=lambda _workers: _brotli.expand,
        package=_brotli.package,
    ),
    "xz": _Format(
        name="xz",
        suffix=".xz",
        default_level=6,
        pack=_xz.pack,
        expand=lambda _workers: _xz.expand,
        filler=_xz.filler,
    ),
}


def _whole(low: int, high: int) -> Validator:
    in_bounds = between(low, high)

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        in_bounds(instance, attribute, value)
        if not isinstance(value, int):  # would reach the algorithms, and they raise a TypeError
            option = f"{type(instance).__name__}.{attribute.name}"
            message = f"{option} is {value}"
            raise ConfigurationError(message, kind="bad_option", hint="it must be a whole number", option=option)

    return check


@attrs.frozen
class Compression(CompressionCodec):
    """
    Makes blobs smaller with one of the common algorithms.

    ===========  ======  =============  ==================================================================
    algorithm    suffix  default level  memory, whatever the size of the stream
    ===========  ======  =============  ==================================================================
    ``zstd``     .zst    3              25 MB per thread; opening too
    ``auto``     .zst    3              the same; stretches that do not compress are stored as they are
    ``gzip``     .gz     6              10 MB per thread
    ``brotli``   .br     6              50 MB; one thread
    ``xz``       .xz     6              140 MB per thread, 230 MB from level 7 on
    ===========  ======  =============  ==================================================================

    What is sealed opens under the default `UnwrapLimits` (brotli apart): data that would compress further are filled
    up with bytes that stand for nothing.

    Raises:
        ConfigurationError: An option is out of its bounds (``bad_option``), or the algorithm's package is not installed
            (``missing_extra``).
    """

    algorithm: str = attrs.field(default="zstd", validator=one_of(*_FORMATS))
    level: int | None = attrs.field(default=None, kw_only=True, validator=optional(_whole(1, 9)))
    """1, fast, to 9, small: the algorithm's own meaning. `None` means its default."""
    threads: int | None = attrs.field(default=None, kw_only=True, validator=optional(_whole(1, 64)))
    """Most threads beside the caller's, 1 to 64; `None` means one per processor, 8 at most. The output is the same."""
    limits: UnwrapLimits = attrs.field(factory=UnwrapLimits, kw_only=True)
    """How much opening may yield."""
    suffix: str = attrs.field(init=False, repr=False)

    @suffix.default
    def _suffix(self) -> str:
        return _FORMATS[self.algorithm].suffix if self.algorithm in _FORMATS else ""  # the validator comes later

    def __attrs_post_init__(self) -> None:
        """Refuse early what the packages at hand cannot do."""
        package = self._format.package
        if package is not None:
            package()

    @property
    def _format(self) -> _Format:
        return _FORMATS[self.algorithm]

    @property
    def _workers(self) -> int:
        return self.threads or min(processors(), _MOST_THREADS)

    @property
    def specs(self) -> tuple[CodecSpec, ...]:
        """The one algorithm; for ``auto`` it is ``zstd``, since that is what its output is."""
        return (CodecSpec(name=self._format.name),)

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the compressed form."""
        usual = UnwrapLimits()
        plain = stored = 0
        filler = self._format.filler
        options: dict[str, Any] = {"level": self.level or self._format.default_level, "workers": self._workers}
        with stopping(chunks) as source:
            for taken, part in self._format.pack(source, **options):
                plain += taken
                missing = usual.least_stored(plain) - stored
                if missing > 0 and taken and filler is not None:  # before the part: readers look while they read it
                    filling = filler(missing)
                    stored += len(filling)
                    yield filling
                stored += len(part)
                yield part

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """
        Yield the plain bytes, in one pass and as they are read.

        Raises:
            UnsupportedFormatError: The bytes are not of this format, or need more memory than is granted.
            TruncatedError: They end early.
            IntegrityError: They are damaged (``compressed_data``), or grow beyond the limits (``decompression_limit``).
        """
        with stopping(read()) as source:
            yield from limited(self._format.expand(self._workers), source, self.limits)


def compression_for(name: str) -> Compression | None:
    """
    Return a codec that opens the compression called *name* in a manifest, `None` when it is none.

    Raises:
        ConfigurationError: The package it needs is not installed (``missing_extra``).
    """
    return Compression(name) if name in {known.name for known in _FORMATS.values()} else None
