"""
A checker of provenance written from ``docs/reference/provenance.md`` alone: it shares no code with the library.

It refuses with `ValueError`; whatever else it raises (missing keys, bytes of another kind) is a refusal, too.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import cbor2
import pyblst

SUITE = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
DER = bytes.fromhex("308182301d060d2b0601040182dc7c0503010201060c2b0601040182dc7c05030201036100")
GENERATOR = bytes.fromhex(
    "93e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e"
    "024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8"
)
METADATA_ARG = bytes.fromhex("4449444c026c02b3c4b1f20468b6b897890f016d7b0100")
DATA_ARG = bytes.fromhex(
    "4449444c056c03d4c2a7b80401b3c4b1f20468b6b897890f046b04a79fc97e02fccbfb9d0502c586d3970902d2c7b5c00f036c02c1c1cee2047893"
    "affe8106786c01cedfa0a804046d7b0100"
)
SECTIONS = ("wasm_module", "wasm_memory", "stable_memory")


def sha256(*parts: bytes) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def require(good: object, why: str) -> None:
    if not good:
        raise ValueError(why)


def leb128(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def strict(data: bytes) -> Any:
    value = cbor2.loads(data)
    require(cbor2.dumps(value) == data, "not in canonical form")
    return value


# Trees and signatures


def tree_hash(node: Any) -> bytes:
    kind = node[0]
    if kind == 0:
        return sha256(b"\x11ic-hashtree-empty")
    if kind == 1:
        return sha256(b"\x10ic-hashtree-fork", tree_hash(node[1]), tree_hash(node[2]))
    if kind == 2:
        return sha256(b"\x13ic-hashtree-labeled", node[1], tree_hash(node[2]))
    if kind == 3:
        return sha256(b"\x10ic-hashtree-leaf", node[1])
    require(kind == 4 and len(node[1]) == 32, "bad node")
    pruned: bytes = node[1]
    return pruned


def children(node: Any) -> list[Any]:
    return children(node[1]) + children(node[2]) if node[0] == 1 else [node]


def find(node: Any, *path: bytes) -> Any:
    for label in path:
        node = next(child[2] for child in children(node) if child[0] == 2 and child[1] == label)
    return node


def signed(tree: Any, signature: bytes, key: bytes) -> None:
    point = pyblst.BlstP1Element.uncompress(signature)
    hashed = pyblst.BlstP1Element.hash_to_group(b"\x0dic-state-root" + tree_hash(tree), SUITE)
    left = pyblst.miller_loop(point, pyblst.BlstP2Element.uncompress(GENERATOR))
    right = pyblst.miller_loop(hashed, pyblst.BlstP2Element.uncompress(key))
    require(not signature[0] & 0x40 and pyblst.final_verify(left, right), "signature")


def bls_key(der: bytes) -> bytes:
    require(der.startswith(DER) and len(der) == 133, "not a subnet's key")
    return der[37:]


def subnet_key(subnet: bytes, certificate: bytes, root_key: bytes, canister: bytes) -> bytes:
    require(certificate.startswith(b"\xd9\xd9\xf7"), "no tag")
    inner = cbor2.loads(certificate[3:])
    require("delegation" not in inner, "nested delegation")
    signed(inner["tree"], inner["signature"], bls_key(root_key))
    tree = inner["tree"]
    try:
        ranges = find(tree, b"subnet", subnet, b"canister_ranges")[1]
    except StopIteration:
        shards = [c for c in children(find(tree, b"canister_ranges", subnet)) if c[0] == 2 and c[1] <= canister]
        ranges = shards[-1][2][1]
    require(any(low <= canister <= high for low, high in cbor2.loads(ranges)), "range")
    return bls_key(find(tree, b"subnet", subnet, b"public_key")[1])


# Candid, as much as the metadata needs


class Candid:
    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)
        require(self.stream.read(4) == b"DIDL", "not Candid")
        self.types = [self.type() for _ in range(self.leb())]
        self.arguments = [self.sleb() for _ in range(self.leb())]

    def leb(self) -> int:
        number, shift = 0, 0
        while True:
            byte = self.stream.read(1)[0]
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    def sleb(self) -> int:
        number, shift = 0, 0
        while True:
            byte = self.stream.read(1)[0]
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number - (1 << shift) if byte & 64 else number

    def type(self) -> Any:
        code = self.sleb()
        if code in {-18, -19}:
            return code, self.sleb()
        return code, [(self.leb(), self.sleb()) for _ in range(self.leb())]

    def value(self, kind: int) -> Any:
        fixed = {-5: 1, -6: 2, -7: 4, -8: 8, -9: 1, -10: 2, -11: 4, -12: 8, -13: 4, -14: 8}
        if kind in fixed:
            return int.from_bytes(self.stream.read(fixed[kind]), "little")
        if kind in {-1, -3, -4, -16}:
            return None if kind in {-1, -16} else self.leb()
        code, inner = self.types[kind]
        if code == -18:
            return self.value(inner) if self.stream.read(1) == b"\1" else None
        if code == -19:
            return [self.value(inner) for _ in range(self.leb())]
        if code == -20:
            return {name: self.value(below) for name, below in inner}
        name, below = inner[self.leb()]
        return name, self.value(below)


def field_id(name: str) -> int:
    number = 0
    for byte in name.encode():
        number = (number * 223 + byte) % 2**32
    return number


# The file


def check(directory: Path, root_key: bytes) -> None:  # noqa: C901, PLR0915 - as straight as the page
    """Raise unless the directory is what its provenance says."""
    data = (directory / "provenance.cbor").read_bytes()
    stream, items = io.BytesIO(data), []
    while (start := stream.tell()) < len(data):
        items.append(cbor2.load(stream))
        require(cbor2.dumps(items[-1]) == data[start : stream.tell()], "not in canonical form")
    head, *rest = items
    require(list(head) == ["format", "canister_id", "snapshot_id"], "head")
    require(head["format"] == "knowtation-snapshot-provenance-1", "format")
    delegations: list[tuple[bytes, bytes]] = []
    used = set()
    parts: dict[tuple[str, Any], int] = {}
    metadata: dict[int, Any] = {}
    ids = b"\x01" + bytes([len(head["canister_id"])]) + head["canister_id"]
    ids += bytes([len(head["snapshot_id"])]) + head["snapshot_id"]

    def proved(evidence: bytes, method: str, arg: bytes, *reply: bytes) -> None:
        version, sender, nonce, expiry, called, named, effective, certificate, number = strict(evidence)
        require((version, called, named, effective) == (1, b"", method, head["canister_id"]), "question")
        fields = {
            "request_type": b"call",
            "sender": sender,
            "ingress_expiry": leb128(expiry),
            "canister_id": b"",
            "method_name": method.encode(),
            "arg": arg,
        }
        if nonce is not None:
            fields["nonce"] = nonce
        hashes = sorted(sha256(name.encode()) + sha256(value) for name, value in fields.items())
        request_id = sha256(*hashes)
        pair = strict(certificate)
        require(list(pair) == ["tree", "signature"], "certificate")
        status = find(pair["tree"], b"request_status", request_id, b"status")
        require(status == [3, b"replied"], "status")
        found = find(pair["tree"], b"request_status", request_id, b"reply")
        require(found == [4, sha256(b"\x10ic-hashtree-leaf", *reply)], "reply")
        key = bls_key(root_key)
        if number is not None:
            used.add(number)
            subnet, certificate = delegations[number]
            key = subnet_key(subnet, certificate, root_key, head["canister_id"])
        signed(pair["tree"], pair["signature"], key)
        require(find(pair["tree"], b"time")[0] == 3, "time")

    for item in rest:
        match list(item):
            case ["delegation", "subnet_id", "certificate"]:
                require(item["delegation"] == len(delegations), "number")
                delegations.append((item["subnet_id"], item["certificate"]))
            case ["metadata", "evidence"]:
                require(not metadata, "metadata twice")
                reply = item["metadata"]
                proved(item["evidence"], "read_canister_snapshot_metadata", METADATA_ARG + ids, reply)
                candid = Candid(reply)
                metadata = candid.value(candid.arguments[0])
            case ["part", "reply_head", "evidence"]:
                section, *where = item["part"]
                if section == "wasm_chunk":
                    which = b"\x03\x20" + where[0]
                    content = (directory / "wasm_chunk_store" / f"{where[0].hex()}.bin").read_bytes()
                    require(sha256(content) == where[0], "chunk")
                    place, size = (section, where[0]), 0
                else:
                    offset, size = where
                    which = bytes([SECTIONS.index(section)])
                    which += size.to_bytes(8, "little") + offset.to_bytes(8, "little")
                    content = (directory / f"{section}.bin").read_bytes()[offset : offset + size]
                    require(len(content) == size, "short")
                    place = (section, offset)
                require(place not in parts and len(item["reply_head"]) <= 256, "part")
                parts[place] = size
                arg = DATA_ARG + which + ids
                proved(item["evidence"], "read_canister_snapshot_data", arg, item["reply_head"], content)
            case _:
                require(False, "unknown item")  # noqa: FBT003 - refuses
    require(used == set(range(len(delegations))) and len(set(delegations)) == len(delegations), "delegations")
    written = json.loads((directory / "metadata.json").read_text())
    for section in SECTIONS:
        size = metadata[field_id(f"{section}_size")]
        reached = 0
        while reached < size:
            reached += parts.pop((section, reached))
        path = directory / f"{section}.bin"
        length = path.stat().st_size if path.exists() else 0
        require(reached == size == length == written[f"{section}_size"], "sections")
    hashes = [bytes(each[field_id("hash")]) for each in metadata[field_id("wasm_chunk_store")]]
    require({("wasm_chunk", each) for each in hashes} == set(parts), "chunks")
    require([bytes(each["hash"]) for each in written["wasm_chunk_store"]] == hashes, "metadata.json")
    for name in ("canister_version", "taken_at_timestamp"):
        require(written[name] == metadata[field_id(name)], "metadata.json")
