"""Walking the operator's user index: every tenant the hub lists, and no endless walk."""

from __future__ import annotations

from ..errors import ExportError
from .client import HubClient

__all__ = ["PAGE_SIZE", "read_user_index"]

PAGE_SIZE = 200
"""What the existing exporter asks for (contracts 1.5)."""


def read_user_index(hub: HubClient, *, page_size: int = PAGE_SIZE) -> tuple[str, ...]:
    """
    Return every tenant id of the index in its order, without repetition.

    Stops when the hub says ``done`` or gives no further cursor.

    Raises:
        ExportError: Kind ``index_loop``: the cursor did not grow, or there is no end within the client's limits.
        BackupError: What `HubClient.index_page` raises.
    """
    users: dict[str, None] = {}
    cursor = ""
    position = 0
    empty = 0
    for _ in range(hub.limits.index_pages):
        page = hub.index_page(cursor, limit=page_size)
        before = len(users)
        users.update(dict.fromkeys(page.user_ids))
        if page.last:
            return tuple(users)
        empty = 0 if len(users) > before else empty + 1
        # The cursor is the position of the next tenant; one that does not grow would bring the same page for ever.
        following = int(page.next_cursor[:18]) if page.next_cursor.isascii() and page.next_cursor.isdigit() else -1
        if following <= position:
            shown = page.next_cursor[:40]
            raise _loop(f"the cursor went from {position} to {shown!r} after {len(users)} tenants")
        if empty >= hub.limits.empty_pages:
            raise _loop(f"{empty} pages in a row brought no new tenant after {len(users)}")
        if len(users) > hub.limits.index_users:
            raise _loop(f"more than {hub.limits.index_users} tenants")
        cursor, position = page.next_cursor, following
    raise _loop(f"no end after {hub.limits.index_pages} pages and {len(users)} tenants")


def _loop(reason: str) -> ExportError:
    hint = "the hub's index does not end; report this to its owner, or raise HubLimits if the hub is really that large"
    return ExportError(f"the user index does not add up: {reason}", kind="index_loop", hint=hint)
