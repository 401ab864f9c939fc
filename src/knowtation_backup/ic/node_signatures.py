"""
Signatures of single nodes under the answers of queries.

One node answers a query alone. Its signature says who is to blame, not that the subnet agrees.

Source:
    IC interface specification, "Request: Query call"; internet-computer reference, A.8 and B.6.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ..errors import CertificateError
from ..model.ids import Principal
from .certificate import MAX_AGE, Certificate
from .delegations import contains, flat_ranges
from .hash_tree import NOT_USED, Found
from .wire import IC_RESPONSE, Buffer, content_hash

__all__ = ["node_keys", "verify_query_signatures"]

_ED25519_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")
_ED25519_DER_BYTES: Final = 44
_MOST_NODES: Final = 1_000


def node_keys(
    certificate: Certificate, *, root_key: bytes, effective_canister_id: Principal | None
) -> Mapping[Principal, bytes]:
    """
    Return the keys of a subnet's nodes, in DER form.

    Args:
        certificate: Of the path ``/subnet``, verified for *effective_canister_id*.
        root_key: Of the network, in DER form; names the root subnet.
        effective_canister_id: The canister whose subnet is meant.

    Raises:
        CertificateError: Kinds ``certificate_path`` (no keys in it), ``certificate_range``, ``node_key``.
    """
    subnet_id = certificate.subnet_id
    if subnet_id is None:
        subnet_id = Principal.self_authenticating(root_key)
        # A delegation tells the ranges; without one they have to be in the certificate itself.
        ranges = flat_ranges(certificate.tree, subnet_id)
        if effective_canister_id is not None and not contains(ranges or (), effective_canister_id.raw):
            message = f"the root subnet answered for canister {effective_canister_id}, which is not one of its own"
            raise CertificateError(message, kind="certificate_range", hint=NOT_USED, subnet_id=str(subnet_id))
    keys: dict[Principal, bytes] = {}
    for label in certificate.tree.labels(b"subnet", subnet_id.raw, b"node"):
        found = certificate.lookup(b"subnet", subnet_id.raw, b"node", label, b"public_key")
        if isinstance(found, Found):
            node, key = _checked_key(label, bytes(found.value))
            keys[node] = key
    if not keys:
        message = f"the certificate holds no keys of the nodes of subnet {subnet_id}"
        raise CertificateError(message, kind="certificate_path", hint=NOT_USED, subnet_id=str(subnet_id))
    return keys


def _checked_key(label: bytes, key: bytes) -> tuple[Principal, bytes]:
    node = Principal.self_authenticating(key)
    if len(key) != _ED25519_DER_BYTES or not key.startswith(_ED25519_PREFIX) or node.raw != label:
        raise CertificateError(
            f"the certified key of node {label.hex()} is not that node's", kind="node_key", hint=NOT_USED
        )
    return node, key


def verify_query_signatures(
    answer: Mapping[str, Any],
    *,
    request_id: bytes,
    keys: Mapping[Principal, bytes],
    now_ns: int,
    max_age: dt.timedelta = MAX_AGE,
) -> None:
    """
    Return if the answer of a query is signed by nodes of the subnet, for this very query, just now.

    Args:
        answer: The fields of the answer: ``status``, ``reply`` or the rejection, ``signatures``.
        request_id: Of the query.
        keys: Of the subnet's nodes, from `node_keys`.
        now_ns: The present moment.
        max_age: How far a signature's time may lie from *now_ns*, either way.

    Raises:
        CertificateError: Kinds ``node_signature`` (missing, of an unknown node, or not matching) and
            ``certificate_time``.
    """
    signed = _signed_fields(answer)
    signatures = answer.get("signatures")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= min(len(keys), _MOST_NODES):
        count = len(signatures) if isinstance(signatures, list) else 0
        message = f"the answer of a query has {count} signatures, of a subnet of {len(keys)} nodes"
        raise CertificateError(message, kind="node_signature", hint=NOT_USED)
    for signature in signatures:
        match signature:
            case {"timestamp": time_ns, "signature": data, "identity": identity} if _is_number(time_ns) and _are_bytes(
                data, identity
            ):
                node = _known_node(bytes(identity), keys)
                _check_time(node, time_ns, now_ns, max_age)
                signable = {**signed, "request_id": request_id, "timestamp": time_ns}
                _check(node, keys[node], bytes(data), IC_RESPONSE + content_hash(signable))
            case _:
                raise CertificateError(
                    "a signature under the answer of a query is malformed", kind="node_signature", hint=NOT_USED
                )


def _are_bytes(*values: object) -> bool:
    return all(isinstance(value, (bytes, bytearray, memoryview)) for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _signed_fields(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what nodes sign; whatever else an answer holds is not covered and must not be used."""
    match answer:
        case {"status": "replied", "reply": {"arg": arg}} if _are_bytes(arg):
            return {"status": "replied", "reply": {"arg": arg}}
        case {"status": "rejected", "reject_code": code, "reject_message": str(text)} if _is_number(code):
            name = answer.get("error_code")
            if name is None or isinstance(name, str):
                return {"status": "rejected", "reject_code": code, "reject_message": text, "error_code": name}
    raise CertificateError(
        "the answer of a query has neither reply nor rejection", kind="node_signature", hint=NOT_USED
    )


def _known_node(identity: bytes, keys: Mapping[Principal, bytes]) -> Principal:
    node = next((known for known in keys if known.raw == identity), None)
    if node is None:
        message = f"the answer of a query is signed by {identity.hex()[:64]}, which is not a node of the subnet"
        hint = "nodes come and go: read the keys of the subnet anew"
        raise CertificateError(message, kind="node_signature", hint=hint)
    return node


def _check_time(node: Principal, time_ns: int, now_ns: int, max_age: dt.timedelta) -> None:
    seconds = (now_ns - time_ns) / 10**9
    if abs(seconds) > max_age.total_seconds():
        way = "old" if seconds > 0 else "from the future"
        message = f"the answer of node {node} is {abs(seconds):,.0f} s {way}"
        hint = "the node lags behind, or this machine's clock is wrong"
        raise CertificateError(message, kind="certificate_time", hint=hint, too_old=seconds > 0)


def _check(node: Principal, key: bytes, signature: Buffer, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key[len(_ED25519_PREFIX) :]).verify(bytes(signature), message)
    except (InvalidSignature, ValueError):
        text = f"the signature of node {node} does not match the answer of the query"
        hint = "the answer was changed on its way; try again, or another address of the network"
        raise CertificateError(text, kind="node_signature", hint=hint) from None
