"""A loopback TCP proxy that is slow, or fails on purpose: real sockets between a client and a real HTTP server."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterable
from typing import Final, Literal, Self

__all__ = ["Rule", "TcpProxy"]

_BLOCK: Final = 256 << 10
_HEAD: Final = 1000


class Rule:
    """
    What happens to the next *times* requests whose first line and headers match *pattern*.

    ``lose`` lets the server do its work and closes the connection in place of its answer; ``refuse`` closes it before
    the server hears anything; ``reply`` answers with *reply* in the server's place; ``cut`` closes in the middle of the
    answer's body.
    """

    def __init__(
        self,
        pattern: str,
        action: Literal["lose", "refuse", "reply", "cut"],
        *,
        times: int = 1,
        reply: bytes = b"",
    ) -> None:
        self.pattern = re.compile(pattern.encode())
        self.action = action
        self.left = times
        self.reply = reply
        self.applied = 0


class TcpProxy:
    """
    Forwards connections to a port of this host until it is closed.

    Args:
        port: Where to.
        turn_seconds: Waited whenever the conversation changes direction: the way there of a request, the way back of
            an answer. Bodies then flow at full speed.
        rules: Looked at in order; change the list at any time.
    """

    def __init__(self, port: int, *, turn_seconds: float = 0.0, rules: Iterable[Rule] = ()) -> None:
        self._target = ("127.0.0.1", port)
        self._turn_seconds = turn_seconds
        self.rules = list(rules)
        self.heads: list[str] = []
        """First line of every request."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and wait for all threads."""
        with self._lock:
            _shut(self._listener)
            for each in self._open:
                _shut(each)
        for thread in list(self._threads):
            thread.join()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]  # ours
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                    server = socket.create_connection(self._target)
                except OSError:
                    return
                with self._lock:
                    self._open |= {client, server}
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                talk = _Talk()
                self._start(self._requests, client, server, talk)
                self._start(self._answers, client, server, talk)

    def _requests(self, client: socket.socket, server: socket.socket, talk: _Talk) -> None:
        try:
            while block := client.recv(_BLOCK):
                if talk.turn("request"):
                    time.sleep(self._turn_seconds)
                rule = self._rule(block)
                if rule is not None and rule.action == "refuse":
                    break
                if rule is not None and rule.action == "reply":
                    client.sendall(rule.reply)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(_BLOCK):  # or the answer would be lost to a reset
                        pass
                    break
                talk.rule = rule or talk.rule
                server.sendall(block)
        except OSError:
            pass
        finally:
            self._end(client, server, talk)

    def _answers(self, client: socket.socket, server: socket.socket, talk: _Talk) -> None:
        try:
            while block := server.recv(_BLOCK):
                if block.startswith(b"HTTP/1.1 100"):
                    client.sendall(block)
                    continue
                if talk.turn("answer"):
                    time.sleep(self._turn_seconds)
                if talk.rule is not None:
                    if talk.rule.action == "cut":
                        client.sendall(block[: len(block) // 2])
                    break
                client.sendall(block)
        except OSError:
            pass
        finally:
            self._end(client, server, talk)

    def _rule(self, block: bytes) -> Rule | None:
        head = block[:_HEAD]
        if not re.match(rb"(GET|PUT|POST|HEAD|DELETE) /", head):
            return None
        with self._lock:
            self.heads.append(head.partition(b"\r\n")[0].decode(errors="replace"))
            for rule in self.rules:
                if rule.left and rule.pattern.search(head):
                    rule.left -= 1
                    rule.applied += 1
                    return rule
        return None

    def _end(self, client: socket.socket, server: socket.socket, talk: _Talk) -> None:
        _shut(client)
        _shut(server)
        if talk.ended():
            with self._lock:
                self._open -= {client, server}
            client.close()
            server.close()


class _Talk:
    """One connection: whose turn it is, and what is to happen to the answer."""

    def __init__(self) -> None:
        self.rule: Rule | None = None
        self._speaker = ""
        self._ended = 0
        self._lock = threading.Lock()

    def turn(self, speaker: str) -> bool:
        changed = speaker != self._speaker
        self._speaker = speaker
        return changed

    def ended(self) -> bool:
        """Whether both directions have ended."""
        with self._lock:
            self._ended += 1
            return self._ended == 2


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
