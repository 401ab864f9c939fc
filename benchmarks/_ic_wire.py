"""
The least of an Internet Computer client, for measuring the sandbox: anonymous, unverified, http.client and cbor2.

It is neither the sandbox's code nor the library's, and as light as Python allows, so that the network is what is
measured.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import os
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import cbor2

ANONYMOUS = b"\x04"
_numbers = itertools.count()


def field_id(name: str) -> int:
    """Return the Candid hash of a field name."""
    number = 0
    for byte in name.encode():
        number = (number * 223 + byte) & 0xFFFFFFFF
    return number


def leb(number: int) -> bytes:
    """Return unsigned LEB128."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def blob(data: bytes) -> bytes:
    """Return a Candid blob or text value."""
    return leb(len(data)) + data


class Agent:
    """One kept-alive connection; use one per thread."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self.received_bytes = 0

    def _post(self, path: str, content: dict[str, Any]) -> bytes:
        body = cbor2.dumps({"content": content})
        self._connection.request("POST", path, body, {"Content-Type": "application/cbor"})
        reply = self._connection.getresponse()
        data = reply.read()
        self.received_bytes += len(data)
        if reply.status != 200 or b"replied" not in data[:40] + data[-4096:]:
            message = f"{reply.status}: {data[:300]!r}"
            raise RuntimeError(message)
        return data

    def call(self, canister_id: bytes, effective_id: bytes, method: str, arg: bytes) -> bytes:
        """Make a synchronous update call and return the answer's CBOR."""
        return self._post(
            f"/api/v4/canister/{_text(effective_id)}/call",
            _content("call", canister_id, method, arg) | {"nonce": next(_numbers).to_bytes(8, "big") + os.urandom(8)},
        )

    def query(self, canister_id: bytes, method: str, arg: bytes) -> bytes:
        """Make a query and return the answer's CBOR."""
        content = _content("query", canister_id, method, arg)
        return self._post(f"/api/v3/canister/{_text(canister_id)}/query", content)


def _content(kind: str, canister_id: bytes, method: str, arg: bytes) -> dict[str, Any]:
    return {
        "request_type": kind,
        "sender": ANONYMOUS,
        "canister_id": canister_id,
        "method_name": method,
        "arg": arg,
        "ingress_expiry": time.time_ns() + 240 * 10**9,
    }


def _text(canister_id: bytes) -> str:
    data = zlib.crc32(canister_id).to_bytes(4, "big") + canister_id
    plain = base64.b32encode(data).decode().lower().rstrip("=")
    return "-".join(plain[i : i + 5] for i in range(0, len(plain), 5))


def parallel(url: str, jobs: list[Callable[[Agent], Any]], threads: int) -> tuple[float, int]:
    """Run *jobs* on *threads* connections; return wall seconds and bytes received."""
    agents = [Agent(url) for _ in range(threads)]

    def work(number: int) -> None:
        for job in jobs[number::threads]:
            job(agents[number])

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, range(threads)):
            pass
    return time.perf_counter() - start, sum(agent.received_bytes for agent in agents)
