import hashlib
from types import SimpleNamespace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.sandbox.protocol.hash_tree import (
    Empty,
    Fork,
    HashTree,
    Labeled,
    Leaf,
    Pruned,
    branch,
    digest,
    encode_parts,
    prune,
)

SPECIFICATION_TREE = bytes.fromhex(
    "8301830183024161830183018302417882034568656c6c6f810083024179820345776f726c6483024162820344676f6f64"
    "8301830241638100830241648203476d6f726e696e67"
)
SPECIFICATION_ROOT = bytes.fromhex("eb5c5b2195e62d996b84c9bcc8259d19a83786a2f59e0878cec84c811f669aa0")


def specification_tree() -> HashTree:
    return Fork(
        Fork(
            Labeled(b"a", Fork(Fork(Labeled(b"x", Leaf(b"hello")), Empty()), Labeled(b"y", Leaf(b"world")))),
            Labeled(b"b", Leaf(b"good")),
        ),
        Fork(Labeled(b"c", Empty()), Labeled(b"d", Leaf(b"morning"))),
    )


def encoded(tree: HashTree) -> bytes:
    parts: list[bytes] = []
    encode_parts(tree, parts)
    return b"".join(parts)


def test_example_of_the_specification(tools: SimpleNamespace) -> None:
    tree = specification_tree()
    assert digest(tree) == SPECIFICATION_ROOT
    assert encoded(tree) == SPECIFICATION_TREE
    assert tools.digest(cbor2.loads(encoded(tree))) == SPECIFICATION_ROOT


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (("a", "y"), b"world"),
        (("a", "x"), "unknown"),
        (("aa",), "absent"),
        (("ax",), "absent"),
        (("b",), "unknown"),
        (("d",), b"morning"),
        (("e",), "absent"),
    ],
)
def test_pruned_tree_of_the_specification(tools: SimpleNamespace, path: tuple[str, ...], found: object) -> None:
    tree = prune(specification_tree(), [(b"a", b"y"), (b"ax",), (b"d",)])
    assert digest(tree) == SPECIFICATION_ROOT
    assert tools.lookup(cbor2.loads(encoded(tree)), *path) == found


def test_leaves_are_not_copied() -> None:
    value = bytes(100_000)
    parts: list[bytes] = []
    encode_parts(branch({b"big": Leaf(value)}), parts)
    assert any(part is value for part in parts)


def test_empty_and_pruned_trees() -> None:
    assert branch({}) == Empty()
    assert digest(Pruned(b"x" * 32)) == b"x" * 32
    assert prune(Empty(), []) == Pruned(hashlib.sha256(b"\x11ic-hashtree-empty").digest())
    assert prune(Pruned(b"x" * 32), []) == Pruned(b"x" * 32)
    assert prune(Pruned(b"x" * 32), [(b"a",)]) == Pruned(b"x" * 32)


labels = st.binary(min_size=1, max_size=3)
states = st.recursive(st.binary(max_size=4), lambda below: st.dictionaries(labels, below, max_size=5), max_leaves=30)


def build(state: object) -> HashTree:
    if isinstance(state, bytes):
        return Leaf(state)
    assert isinstance(state, dict)
    return branch({label: build(below) for label, below in state.items()})


def expected(state: object, path: list[bytes]) -> object:
    for label in path:
        if not isinstance(state, dict) or label not in state:
            return "absent"
        state = state[label]
    return state


@given(state=st.dictionaries(labels, states, max_size=8), paths=st.lists(st.lists(labels, min_size=1, max_size=3)))
def test_pruning_keeps_the_root_and_answers_the_paths(state: dict[bytes, object], paths: list[list[bytes]]) -> None:
    tree = build(state)
    pruned = prune(tree, paths)
    assert digest(pruned) == digest(tree)
    for path in paths:
        found = look(pruned, path)
        wanted = expected(state, path)
        assert found == (build(wanted) if isinstance(wanted, dict) else wanted)


def look(tree: HashTree, path: list[bytes]) -> object:
    """Follow *path* by the rules for proofs of absence, in the tree's own values."""
    if not path:
        return tree.value if isinstance(tree, Leaf) else tree
    nodes = flat(tree)
    for node in nodes:
        if isinstance(node, Labeled) and node.label == path[0]:
            return look(node.subtree, path[1:])
    smaller = [node for node in nodes if isinstance(node, Labeled) and node.label < path[0]]
    cut = len(nodes) if not nodes else nodes.index(smaller[-1]) + 1 if smaller else 0
    after = nodes[cut] if cut < len(nodes) else None
    return "unknown" if isinstance(after, Pruned) else "absent"


def flat(tree: HashTree) -> list[HashTree]:
    if isinstance(tree, Fork):
        return flat(tree.left) + flat(tree.right)
    return [] if isinstance(tree, Empty | Leaf) else [tree]
