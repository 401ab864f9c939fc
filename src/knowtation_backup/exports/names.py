"""
Turn note paths, tenant and vault ids into file names that are safe on every system.

A path that is safe already keeps its name. Any other is altered and gets a suffix ``~`` with eight hexadecimal digits
of its hash, so that two different paths never meet. What meets only on some systems (letter case, Unicode
normalisation, a file where a directory is needed) keeps the name of the first and moves the others aside, again under
their hash.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

__all__ = ["SafeNames"]

_SEGMENT_BYTES = 120
"""Far below the 255 that file systems allow, because some count UTF-16 units or encrypt names."""

_PATH_BYTES = 360
_SEGMENTS = 24
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f<>:"|?*\\\\/\ud800-\udfff\ufffe\uffff\u200b-\u200f\u202a-\u202e\u2066-\u2069]')
# Devices on Windows whatever their extension; the short name of .git, which some tools take for the real one.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$|git~[0-9]+)(\..*)?", re.IGNORECASE)


class SafeNames:
    """
    Gives each note path of one vault its own safe relative path.

    Every segment has 1 to 121 bytes of UTF-8, is normalised (NFC), and has no separator, control character or text
    direction mark, no leading dot (hidden files, ``..``, ``.git``), no trailing dot or space, and is no device name.
    Memory: two short texts per path.
    """

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._directories: set[str] = set()

    def add(self, path: str) -> str:
        """Return the relative path, with ``/``, under which to store the note of *path*; never the same one twice."""
        return self._add(path, path.split("/"))

    def add_segment(self, text: str) -> str:
        """Return a name for a single directory or file; in the rarest case it is one level deeper."""
        return self._add(text, [text])

    def _add(self, origin: str, segments: list[str]) -> str:
        clean = [_clean(segment) for segment in segments]
        if clean != segments:
            clean[-1] = _marked(clean[-1], origin)
        name = "/".join(clean)
        if len(clean) <= _SEGMENTS and len(name.encode()) <= _PATH_BYTES and self._claim(name):
            return name
        attempt = 0  # counts only when a payload holds the very same path several times
        while not self._claim(name := f"_moved/{_marked(clean[-1], f'{origin}//{attempt}', digits=24)}"):
            attempt += 1
        return name

    def _claim(self, name: str) -> bool:
        key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        parents = [key[:place] for place, letter in enumerate(key) if letter == "/"]
        if key in self._files or key in self._directories or not self._files.isdisjoint(parents):
            return False
        self._files.add(key)
        self._directories.update(parents)
        return True


def _clean(segment: str) -> str:
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", segment))
    if len(name.encode()) > _SEGMENT_BYTES:
        stem, extension = _split(name)
        name = _shortened(stem, _SEGMENT_BYTES - len(extension.encode())) + extension
    if name.startswith(".") or _RESERVED.fullmatch(name):
        name = f"_{name[1:]}" if name.startswith(".") else f"_{name}"
    if name.endswith((".", " ")):
        name = f"{name[:-1]}_"
    return name or "_"


def _marked(name: str, origin: str, *, digits: int = 8) -> str:
    """Put a mark made from *origin* before the extension."""
    mark = hashlib.sha256(origin.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
    stem, extension = _split(name)
    room = _SEGMENT_BYTES - digits - 1 - len(extension.encode())
    return f"{_shortened(stem, room)}~{mark}{extension}"


def _split(name: str) -> tuple[str, str]:
    """Return stem and extension with its dot; what is too long for an extension is none."""
    stem, dot, extension = name.rpartition(".")
    return (stem, f".{extension}") if stem and dot and len(extension.encode()) <= 16 else (name, "")


def _shortened(text: str, size_bytes: int) -> str:
    return text if len(text.encode()) <= size_bytes else text.encode()[:size_bytes].decode("utf-8", "ignore")
