"""
Hash trees: the shape in which the Internet Computer signs its state.

A tree is empty, a fork of two trees, a labelled subtree, a leaf, or pruned to its digest. Labels below a node are
sorted by their bytes, so that a neighbouring pair proves that nothing lies between it.

Source:
    IC interface specification, section "Certificates"; internet-computer reference, B.1.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import attrs

from .cbor import head_bytes

__all__ = [
    "Empty",
    "Fork",
    "HashTree",
    "Labeled",
    "Leaf",
    "Pruned",
    "branch",
    "digest",
    "encode_parts",
    "forked",
    "prune",
]

Path: TypeAlias = Sequence[bytes]

_EMPTY: Final = hashlib.sha256(b"\x11ic-hashtree-empty").digest()
_FORK: Final = b"\x10ic-hashtree-fork"
_LABELED: Final = b"\x13ic-hashtree-labeled"
_LEAF: Final = hashlib.sha256(b"\x10ic-hashtree-leaf")


@attrs.frozen
class Empty:
    """A subtree without content."""


@attrs.frozen
class Fork:
    """Two subtrees, smaller labels on the left."""

    left: HashTree
    right: HashTree


@attrs.frozen
class Labeled:
    """A subtree under a label."""

    label: bytes
    subtree: HashTree


@attrs.frozen
class Leaf:
    """A value; may be megabytes and is never copied here."""

    value: bytes = attrs.field(repr=False)


@attrs.frozen
class Pruned:
    """A subtree of which only the 32-byte digest is told."""

    digest: bytes


HashTree: TypeAlias = Empty | Fork | Labeled | Leaf | Pruned


def branch(children: Mapping[bytes, HashTree]) -> HashTree:
    """Return the tree with these labelled children, as a balanced arrangement of forks."""
    if not children:
        return Empty()
    return forked([Labeled(label, children[label]) for label in sorted(children)])


def forked(trees: Sequence[HashTree]) -> HashTree:
    """Return the balanced arrangement of *trees* (at least one), which are in the order of their labels."""
    if len(trees) == 1:
        return trees[0]
    middle = (len(trees) + 1) // 2
    return Fork(forked(trees[:middle]), forked(trees[middle:]))


def digest(tree: HashTree) -> bytes:
    """Return the root hash of *tree*."""
    match tree:
        case Pruned(known):
            return known
        case Leaf(value):
            hasher = _LEAF.copy()
            hasher.update(value)
            return hasher.digest()
        case Labeled(label, subtree):
            return hashlib.sha256(_LABELED + label + digest(subtree)).digest()
        case Fork(left, right):
            return hashlib.sha256(_FORK + digest(left) + digest(right)).digest()
    return _EMPTY


def encode_parts(tree: HashTree, parts: list[bytes]) -> None:
    """Append the CBOR form of *tree* to *parts*; values of leaves are appended as they are, without a copy."""
    match tree:
        case Pruned(known):
            parts.append(b"\x82\x04\x58\x20" + known)
        case Leaf(value):
            parts.append(b"\x82\x03" + head_bytes(len(value)))
            parts.append(value)
        case Labeled(label, subtree):
            parts.append(b"\x83\x02" + head_bytes(len(label)) + label)
            encode_parts(subtree, parts)
        case Fork(left, right):
            parts.append(b"\x83\x01")
            encode_parts(left, parts)
            encode_parts(right, parts)
        case _:
            parts.append(b"\x81\x00")


def prune(tree: HashTree, paths: Iterable[Path]) -> HashTree:
    """
    Return *tree* with everything pruned that *paths* do not need; the root hash stays the same.

    A path that exists is revealed with all that lies below it. For one that does not, the neighbouring labels are
    revealed, which proves its absence.
    """
    wanted = [tuple(path) for path in paths]
    if not wanted:
        return tree if isinstance(tree, Pruned) else Pruned(digest(tree))
    if any(not path for path in wanted) or isinstance(tree, Leaf | Empty | Pruned):
        return tree
    below: dict[bytes, list[Path]] = {}
    for path in wanted:
        below.setdefault(path[0], []).append(path[1:])
    labels = list(_labels(tree))
    neighbours = {
        labels[position]
        for label in below
        for place in [bisect.bisect_left(labels, label)]
        if not (place < len(labels) and labels[place] == label)
        for position in (place - 1, place)
        if 0 <= position < len(labels)
    }
    return _prune_forks(tree, below, neighbours)


def _labels(tree: HashTree) -> Iterable[bytes]:
    match tree:
        case Labeled(label, _):
            yield label
        case Fork(left, right):
            yield from _labels(left)
            yield from _labels(right)


def _prune_forks(tree: HashTree, below: Mapping[bytes, list[Path]], neighbours: set[bytes]) -> HashTree:
    match tree:
        case Labeled(label, subtree):
            if label in below:
                return Labeled(label, prune(subtree, below[label]))
            if label in neighbours:
                return Labeled(label, prune(subtree, ()))
            return Pruned(digest(tree))
        case Fork(left, right):
            kept = Fork(_prune_forks(left, below, neighbours), _prune_forks(right, below, neighbours))
            if isinstance(kept.left, Pruned) and isinstance(kept.right, Pruned):
                return Pruned(digest(kept))
            return kept
    return tree
