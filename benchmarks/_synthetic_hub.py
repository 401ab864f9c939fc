"""
A hub of any size for memory measurements: a loopback HTTP server that answers the hub contract from generated text.

It exists because a 2 GB hub would take minutes to seed; everything about correctness is measured on the real canister.
Every vault is one reply of about the size asked for, made of notes of 20 kB whose text differs per tenant.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from aiohttp import web

NOTE_BYTES = 20_000


def _vault_reply(size_bytes: int) -> tuple[bytes, bytes]:
    """Return a notes reply in two parts, between which the tenant's id goes."""
    words = [f"{number:x}" for number in random.Random(7).sample(range(1 << 24), 4000)]  # noqa: S311 - filler text
    notes: list[dict[str, str]] = []
    total = 0
    while total < size_bytes:
        body = " ".join(words[(len(notes) * 31 + i) % len(words)] for i in range(NOTE_BYTES // 7))
        notes.append({"path": f"notes/{len(notes):04d}.md", "frontmatter": "{}", "body": body})
        total += len(body)
    text = json.dumps({"notes": notes}, separators=(",", ":"))
    head, tail = text.split('"body":"', 1)
    return f'{head}"body":"'.encode(), tail.encode()


async def _serve(pipe: Any, tenants: int, vault_bytes: int) -> None:
    head, tail = _vault_reply(vault_bytes)
    ids = [f"tenant:{number:06d}" for number in range(tenants)]

    async def index(request: web.Request) -> web.Response:
        cursor = int(request.query.get("cursor") or 0)
        page = ids[cursor : cursor + int(request.query.get("limit", 100))]
        following = cursor + len(page)
        done = following >= len(ids)
        return web.json_response(
            {
                "format_version": 3,
                "kind": "knowtation-operator-user-index",
                "exported_at_ns": "0",
                "user_ids": page,
                "next_cursor": "" if done else str(following),
                "done": done,
            }
        )

    async def vaults(_request: web.Request) -> web.Response:
        return web.json_response({"vaults": [{"id": "default", "label": "default"}]})

    async def export(request: web.Request) -> web.Response:
        body = head + request.headers["X-User-Id"].encode() + b" " + tail
        return web.Response(body=body, content_type="application/json")

    async def proposals(_request: web.Request) -> web.Response:
        return web.json_response({"proposals": [], "total": 0})

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/api/v1/operator/export", index)
    app.router.add_get("/api/v1/vaults", vaults)
    app.router.add_get("/api/v1/export", export)
    app.router.add_get("/api/v1/proposals", proposals)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    pipe.send(f"http://{host}:{port}")
    closed = asyncio.get_running_loop().run_in_executor(None, _wait_for_close, pipe)
    await closed
    await runner.cleanup()


def _wait_for_close(pipe: Any) -> None:
    try:
        pipe.recv()
    except EOFError:
        return


def main(pipe: Any, tenants: int, vault_bytes: int) -> None:
    """Serve until *pipe* closes; sends the base URL first."""
    asyncio.run(_serve(pipe, tenants, vault_bytes))
