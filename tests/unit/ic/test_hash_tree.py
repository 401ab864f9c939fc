"""Hash trees: digests, what a lookup may conclude, pruning, and refusal of malformed ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ic.certificate import lookup as ic_py_lookup
from ic_certificates import encoded, tree_of
from icp_certificate.certificate import Certificate as IcpPyCoreCertificate  # type: ignore[import-untyped]

from knowtation_backup.errors import BackupError, CertificateError
from knowtation_backup.ic.hash_tree import Absent, Found, HashTree, Unknown, leaf_digest
from knowtation_backup.sandbox.protocol import hash_tree as reference

SPEC = bytes.fromhex(
    "8301830183024161830183018302417882034568656c6c6f810083024179820345776f726c6483024162820344676f6f64"
    "8301830241638100830241648203476d6f726e696e67"
)
SPEC_ROOT = "eb5c5b2195e62d996b84c9bcc8259d19a83786a2f59e0878cec84c811f669aa0"
LABELS = st.binary(max_size=3)
STATES = st.recursive(
    st.binary(max_size=6), lambda inner: st.dictionaries(LABELS, inner, min_size=1, max_size=5), max_leaves=12
)
PATHS = st.lists(LABELS, max_size=3)


def _found(tree: HashTree, *path: bytes) -> bytes:
    found = tree.lookup(*path)
    assert isinstance(found, Found)
    return bytes(found.value)


def test_the_tree_of_the_specification() -> None:
    tree = HashTree.parse(SPEC)
    assert tree.root_hash.hex() == SPEC_ROOT
    assert _found(tree, b"a", b"x") == b"hello"
    assert _found(tree, b"a", b"y") == b"world"
    assert _found(tree, b"b") == b"good"
    assert _found(tree, b"d") == b"morning"
    assert isinstance(tree.lookup(b"c"), Absent)
    assert isinstance(tree.lookup(b"e"), Absent)
    assert isinstance(tree.lookup(b"a", b"z", b"further"), Absent)
    assert isinstance(tree.lookup(b"b", b"below a value"), Absent)
    assert tree.labels(b"a") == (b"x", b"y")
    assert tree.labels() == (b"a", b"b", b"c", b"d")
    assert tree.labels(b"nothing") == ()


def test_a_pruned_tree_tells_what_it_hides_from_what_is_absent() -> None:
    whole = HashTree.parse(SPEC)
    tree = HashTree.parse(whole.pruned([(b"a", b"y")], labels_only=[(b"b",)]).encoded())
    assert tree.root_hash.hex() == SPEC_ROOT
    assert _found(tree, b"a", b"y") == b"world"
    assert isinstance(tree.lookup(b"aa"), Absent)
    assert isinstance(tree.lookup(b"b"), Unknown)
    assert isinstance(tree.lookup(b"bb"), Unknown)
    assert isinstance(tree.lookup(b"d"), Unknown)
    assert isinstance(tree.lookup(b"e"), Unknown)
    assert isinstance(tree.lookup(b"a", b"x"), Unknown)
    assert isinstance(tree.lookup(b"a", b"z"), Absent)


def test_what_lies_beside_is_pruned_to_one_digest() -> None:
    tree = HashTree.parse(SPEC).pruned([(b"d",)])
    assert tree.encoded().startswith(b"\x83\x01\x82\x04\x58\x20")
    assert tree.labels() == (b"d",)


def test_a_value_is_a_view_into_the_input() -> None:
    data = encoded(tree_of({b"reply": bytes(1000)}))
    found = HashTree.parse(data).lookup(b"reply")
    assert isinstance(found, Found)
    assert found.value.obj is data


def test_a_subtree_is_not_a_value() -> None:
    with pytest.raises(CertificateError, match="/a") as caught:
        HashTree.parse(SPEC).lookup(b"a")
    assert caught.value.kind == "certificate_path"


def test_digests_below_a_path_are_told_even_when_pruned() -> None:
    whole = HashTree.parse(SPEC)
    pruned = whole.pruned([], labels_only=[(b"a", b"x")])
    assert isinstance(pruned.lookup(b"a", b"x"), Unknown)
    assert pruned.digest_at(b"a", b"x") == whole.digest_at(b"a", b"x") == leaf_digest([b"he", b"", b"llo"])
    assert pruned.digest_at(b"b") is None
    assert whole.digest_at() == whole.root_hash


def test_an_empty_tree() -> None:
    tree = HashTree.parse(b"\x81\x00")
    assert tree.root_hash == hashlib.sha256(b"\x11ic-hashtree-empty").digest()
    assert isinstance(tree.lookup(b"x"), Absent)
    assert isinstance(tree.lookup(), Absent)
    assert tree.encoded() == b"\x81\x00"


@pytest.mark.parametrize(
    "tree",
    [
        [1, [2, b"b", [0]], [2, b"a", [0]]],
        [1, [2, b"a", [0]], [2, b"a", [0]]],
        [1, [2, b"b", [0]], [1, [4, bytes(32)], [2, b"a", [0]]]],
        [1, [1, [2, b"a", [0]], [2, b"c", [0]]], [2, b"b", [0]]],
        [2, b"a", [1, [2, b"y", [0]], [2, b"x", [0]]]],
        [1, [3, b"value"], [0]],
        [1, [2, b"a", [0]], [3, b"value"]],
        [4, bytes(31)],
        [4, "text"],
        [4, bytes(33)],
        [5, b""],
        [0, 0],
        [1, [0]],
        [2, "text", [0]],
        [3, "text"],
        [3, [0]],
        {},
        [],
        0,
    ],
)
def test_a_tree_that_no_subnet_makes_is_refused(tree: object) -> None:
    with pytest.raises(CertificateError) as caught:
        HashTree.parse(cbor2.dumps(tree))
    assert caught.value.kind == "certificate_malformed"


def test_labels_of_cousins_are_not_compared() -> None:
    tree = HashTree.parse(cbor2.dumps([1, [2, b"a", [2, b"z", [3, b"1"]]], [2, b"b", [2, b"a", [3, b"2"]]]]))
    assert _found(tree, b"b", b"a") == b"2"


def test_depth_is_bounded() -> None:
    # one labelled node below the other; 129 nodes are fine, with the leaf at depth 128
    fine = b"\x83\x02\x41a" * 128 + b"\x82\x03\x41v"
    assert _found(HashTree.parse(fine), *[b"a"] * 128) == b"v"
    with pytest.raises(CertificateError, match="deep"):
        HashTree.parse(b"\x83\x02\x41a" + fine)
    for start in (b"\x83\x02\x41a", b"\x83\x01"):
        with pytest.raises(CertificateError, match="deep"):
            HashTree.parse(start * 100_000)


def test_the_number_of_nodes_is_bounded() -> None:
    level = b"\x81\x00"
    for _ in range(18):
        level = b"\x83\x01" + level + level
    with pytest.raises(CertificateError, match="too many"):
        HashTree.parse(level)


@pytest.mark.parametrize("length", range(len(SPEC)))
def test_a_cut_tree_is_refused(length: int) -> None:
    with pytest.raises(CertificateError):
        HashTree.parse(SPEC[:length])


def test_bytes_behind_a_tree_are_refused() -> None:
    with pytest.raises(CertificateError, match="follow"):
        HashTree.parse(SPEC + b"\x00")


@given(STATES)
def test_other_implementations_agree_about_root_hashes(state: Mapping[bytes, Any] | bytes) -> None:
    tree = tree_of(state)
    data = encoded(tree)
    ours = HashTree.parse(data)
    assert ours.root_hash == reference.digest(tree)
    other = IcpPyCoreCertificate({"tree": cbor2.loads(data), "signature": b""})
    assert other.root_hash() == ours.root_hash
    assert ours.encoded() == data


@given(STATES, PATHS)
def test_a_lookup_finds_what_is_there_and_nothing_else(state: Mapping[bytes, Any] | bytes, path: list[bytes]) -> None:
    tree = HashTree.parse(encoded(tree_of(state)))
    expected: Any = state
    for label in path:
        expected = expected.get(label) if isinstance(expected, Mapping) else None
    if isinstance(expected, Mapping):
        with pytest.raises(CertificateError):
            tree.lookup(*path)
    elif expected is None:
        assert isinstance(tree.lookup(*path), Absent)
    else:
        assert _found(tree, *path) == expected
        assert not path or ic_py_lookup(path, {"tree": cbor2.loads(tree.encoded())}) == expected


@given(STATES, st.lists(PATHS, max_size=3), st.lists(PATHS, max_size=2), PATHS)
def test_pruning_hides_but_never_changes(
    state: Mapping[bytes, Any] | bytes, keep: list[list[bytes]], labels_only: list[list[bytes]], asked: list[bytes]
) -> None:
    whole = HashTree.parse(encoded(tree_of(state)))
    pruned = HashTree.parse(whole.pruned(keep, labels_only=labels_only).encoded())
    assert pruned.root_hash == whole.root_hash
    for path in keep:
        assert pruned.digest_at(*path) == whole.digest_at(*path) or whole.digest_at(*path) is None
    try:
        before = whole.lookup(*asked)
    except CertificateError:
        return
    after = pruned.lookup(*asked)
    assert after == before or isinstance(after, Unknown)


@given(
    st.binary(max_size=60) | st.builds(lambda cut, junk: SPEC[:cut] + junk, st.integers(0, 60), st.binary(max_size=9))
)
def test_any_bytes_are_a_tree_or_refused(data: bytes) -> None:
    try:
        tree = HashTree.parse(data)
    except BackupError:
        return
    assert len(tree.root_hash) == 32
