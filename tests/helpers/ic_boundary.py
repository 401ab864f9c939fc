"""
A boundary node that cheats: it passes requests on to a network and changes what comes back.

In process as an `httpx` transport, or behind a real socket with `serve`.
"""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator

import attrs
import httpx

Change = Callable[[httpx.Request, httpx.Response], httpx.Response]


@attrs.define
class Boundary(httpx.BaseTransport):
    """
    Passes requests to *inner*, and hands each answer to `change` first.

    `requests` holds the paths and bodies that came.
    """

    inner: httpx.BaseTransport
    change: Change | None = None
    requests: list[tuple[str, bytes]] = attrs.field(factory=list)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append((request.url.path, request.read()))
        response = self.inner.handle_request(request)
        if self.change is not None:
            response.read()
            return self.change(request, response)
        return response

    def paths(self, kind: str) -> list[str]:
        """Paths of the requests to one kind of endpoint."""
        return [path for path, _ in self.requests if path.endswith(f"/{kind}")]

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Listen on a port of this machine; yields the URL."""
        boundary = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {"content-type": self.headers.get("content-type", "")}
                request = httpx.Request(self.command, f"http://localhost{self.path}", content=body, headers=headers)
                try:
                    response = boundary.handle_request(request)
                    content = response.read()
                except httpx.TransportError:
                    self.close_connection = True
                    return
                self.send_response(response.status_code)
                for name, value in response.headers.multi_items():
                    self.send_header(name, value)
                if "content-length" not in response.headers:
                    self.send_header("content-length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(content)
                if int(response.headers.get("content-length", len(content))) != len(content):
                    self.close_connection = True

            do_GET = _answer  # noqa: N815 - the names http.server looks for
            do_POST = _answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
