"""
Hash trees: the form in which the Internet Computer signs its state, and reveals parts of it.

A tree is read once: every digest is computed while reading, leaves stay views into the input, and order, depth and
number of nodes are checked, so that everything later (looking up, pruning) can rely on them.

Source:
    IC interface specification, "Certification"; internet-computer reference, B.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Self, TypeAlias

import attrs

from ..errors import CertificateError
from .cbor import Buffer, CborError, CborReader, head

__all__ = ["NOT_USED", "Absent", "Found", "HashTree", "Lookup", "Unknown", "leaf_digest"]

NOT_USED: Final = "nothing of it is used: ask again, perhaps by another address; take a stored record from another copy"
"""What to try when an answer, or the record of one, is not genuine."""

_MOST_DEPTH: Final = 128
"""What other agents accept; trees of the network stay below 70."""
_MOST_NODES: Final = 200_000
_DIGEST_BYTES: Final = 32

_EMPTY, _FORK, _LABELED, _LEAF, _PRUNED = range(5)
_EMPTY_DIGEST: Final = hashlib.sha256(b"\x11ic-hashtree-empty").digest()
_FORK_SEPARATOR: Final = b"\x10ic-hashtree-fork"
_LABELED_SEPARATOR: Final = b"\x13ic-hashtree-labeled"
_LEAF_HASHER: Final = hashlib.sha256(b"\x10ic-hashtree-leaf")
_ARRAY_HEADS: Final = (0x81, 0x83, 0x83, 0x82, 0x82)
"""First byte of each kind of node: an array of so many elements."""

# Plain tuples (kind, digest, …): several times faster to make than objects, and certificates are read for every chunk.
_Node: TypeAlias = tuple[Any, ...]

Path: TypeAlias = Sequence[bytes]


@attrs.frozen
class Found:
    """The path leads to a leaf."""

    value: memoryview = attrs.field(repr=False)


@attrs.frozen
class Absent:
    """It is proved that there is nothing under the path."""


@attrs.frozen
class Unknown:
    """The tree does not tell: the part where the path would be is pruned."""


Lookup: TypeAlias = Found | Absent | Unknown
_ABSENT: Final = Absent()
_UNKNOWN: Final = Unknown()


def leaf_digest(parts: Iterable[Buffer]) -> bytes:
    """Return the digest of a leaf whose value is given in parts."""
    hasher = _LEAF_HASHER.copy()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


class HashTree:
    """A hash tree, or what is revealed of one. Make it with `parse`."""

    __slots__ = ("_root",)

    def __init__(self, root: _Node) -> None:
        self._root = root

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """
        Read a tree in CBOR form.

        Raises:
            CertificateError: Kind ``certificate_malformed``: it is none, its labels are not in order, or it is larger
                or deeper than any genuine one.
        """
        try:
            reader = CborReader(data)
            tree = cls.read(reader)
            reader.end()
        except CborError as error:
            raise CertificateError(
                f"a hash tree is malformed: {error}", kind="certificate_malformed", hint=NOT_USED
            ) from None
        return tree

    @classmethod
    def read(cls, reader: CborReader) -> Self:
        """Read a tree where *reader* stands; raises `CborError`."""
        return cls(_TreeReader(reader).node(0, in_fork=False))

    @property
    def root_hash(self) -> bytes:
        """What a signature covers."""
        digest: bytes = self._root[1]
        return digest

    def lookup(self, *path: bytes) -> Lookup:
        """
        Say what is under *path*.

        Raises:
            CertificateError: Kind ``certificate_path``: a subtree is there, not a value.
        """
        node = self._descend(path)
        if not isinstance(node, tuple):
            return node
        match node[0]:
            case 3:
                return Found(node[2])
            case 0:
                return _ABSENT
            case 4:
                return _UNKNOWN
        message = f"the certified state holds a subtree under {_shown(path)}, where a value was expected"
        raise CertificateError(message, kind="certificate_path", hint=NOT_USED)

    def digest_at(self, *path: bytes) -> bytes | None:
        """Return the digest of what is under *path*, pruned or not; `None` when nothing is known to be there."""
        node = self._descend(path)
        return node[1] if isinstance(node, tuple) else None

    def labels(self, *path: bytes) -> tuple[bytes, ...]:
        """Return the labels that are revealed right below *path*, in order."""
        node = self._descend(path)
        if not isinstance(node, tuple):
            return ()
        return tuple(bytes(child[2]) for child in _children(node) if child[0] == _LABELED)

    def pruned(self, keep: Iterable[Path], *, labels_only: Iterable[Path] = ()) -> HashTree:
        """
        Return the tree with everything pruned that is not needed; the root hash stays the same.

        Args:
            keep: Paths that stay, with all that lies below them.
            labels_only: Paths whose labels stay, while what lies below is pruned.
        """
        wanted = [(tuple(path), True) for path in keep] + [(tuple(path), False) for path in labels_only]
        return HashTree(_pruned(self._root, wanted))

    def encoded_parts(self, parts: list[Buffer]) -> None:
        """Append the CBOR form to *parts*, without copying the leaves."""
        _encode(self._root, parts)

    def encoded(self) -> bytes:
        """Return the CBOR form, without a tag."""
        parts: list[Buffer] = []
        _encode(self._root, parts)
        return b"".join(parts)

    def _descend(self, path: Path) -> _Node | Absent | Unknown:
        node = self._root
        for label in path:
            below = _child(node, label)
            if not isinstance(below, tuple):
                return below
            node = below
        return node


def _child(node: _Node, label: bytes) -> _Node | Absent | Unknown:
    hidden = False  # whether something is pruned between the last label and here
    for child in _children(node):
        if child[0] == _PRUNED:
            hidden = True
        elif child[0] == _LABELED:
            found = child[2]
            if found == label:
                below: _Node = child[3]
                return below
            if bytes(found) > label:
                break
            hidden = False
    return _UNKNOWN if hidden else _ABSENT


def _children(node: _Node) -> Iterator[_Node]:
    """Dissolve forks; in the order of the labels."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node[0] == _FORK:
            waiting += (node[3], node[2])
        else:
            yield node


def _pruned(node: _Node, wanted: list[tuple[tuple[bytes, ...], bool]]) -> _Node:
    if any(not path and whole for path, whole in wanted):
        return node
    if node[0] == _FORK:
        left, right = _pruned(node[2], wanted), _pruned(node[3], wanted)
        if not left[0] == right[0] == _PRUNED:
            return (_FORK, node[1], left, right)
    elif node[0] == _LABELED:
        below = [(path[1:], whole) for path, whole in wanted if path and path[0] == node[2]]
        if below:
            return (_LABELED, node[1], node[2], _pruned(node[3], below))
    return (_PRUNED, node[1])


def _encode(node: _Node, parts: list[Buffer]) -> None:
    match node[0]:
        case 0:
            parts.append(b"\x81\x00")
        case 1:
            parts.append(b"\x83\x01")
            _encode(node[2], parts)
            _encode(node[3], parts)
        case 2:
            parts += (b"\x83\x02" + head(2, len(node[2])), node[2])
            _encode(node[3], parts)
        case 3:
            parts += (b"\x82\x03" + head(2, len(node[2])), node[2])
        case _:
            parts.append(b"\x82\x04\x58\x20" + node[1])


class _TreeReader:
    __slots__ = ("_last_label", "_nodes_left", "_reader", "_view")

    def __init__(self, reader: CborReader) -> None:
        self._reader = reader
        self._view = reader.view
        self._nodes_left = _MOST_NODES
        self._last_label: bytes | None = None
        """Of the forest that is being read, to compare the next one with."""

    def node(self, depth: int, *, in_fork: bool) -> _Node:
        self._nodes_left -= 1
        if depth > _MOST_DEPTH or self._nodes_left < 0:
            raise CborError("it is nested too deep or has too many nodes")
        reader = self._reader
        position = reader.position
        if position + 2 > len(self._view):
            raise CborError("it ends too early")
        kind = self._view[position + 1]
        if kind > _PRUNED or self._view[position] != _ARRAY_HEADS[kind]:
            raise CborError("it holds a node of an unexpected form")
        reader.position = position + 2
        if kind == _FORK:
            left = self.node(depth + 1, in_fork=True)
            right = self.node(depth + 1, in_fork=True)
            return (_FORK, hashlib.sha256(_FORK_SEPARATOR + left[1] + right[1]).digest(), left, right)
        if kind == _LABELED:
            return self._labeled(depth)
        if kind == _PRUNED:
            digest = bytes(reader.byte_string())
            if len(digest) != _DIGEST_BYTES:
                raise CborError("a digest is not 32 bytes")
            return (_PRUNED, digest)
        if kind == _EMPTY:
            return (_EMPTY, _EMPTY_DIGEST)
        if in_fork:
            raise CborError("a value stands where a label is needed")
        value = reader.byte_string()
        hasher = _LEAF_HASHER.copy()
        hasher.update(value)
        return (_LEAF, hasher.digest(), value)

    def _labeled(self, depth: int) -> _Node:
        label = bytes(self._reader.byte_string())
        if self._last_label is not None and label <= self._last_label:
            raise CborError("its labels are not in order")
        self._last_label = None
        below = self.node(depth + 1, in_fork=False)
        self._last_label = label
        return (_LABELED, hashlib.sha256(_LABELED_SEPARATOR + label + below[1]).digest(), label, below)


def _shown(path: Path) -> str:
    return "/" + "/".join(label.decode() if label.replace(b"_", b"").isalnum() else label.hex() for label in path)
