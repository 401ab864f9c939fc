"""The memory sink: permissions, and nothing ever overwritten."""

from collections.abc import Callable

import pytest

from knowtation_backup.errors import ConfigurationError, SinkPermissionError
from knowtation_backup.sinks.memory import MemorySink


@pytest.mark.parametrize("permissions", ["", "l", "r", "w", "d", "lr", "lrw", "lrwd"])
def test_exactly_what_is_permitted_works(permissions: str) -> None:
    sink = MemorySink(permissions=permissions)
    if "w" in permissions:
        sink.put("a", [b"x"])
        sink.put("b", [b"y"])
    actions: dict[str, Callable[[], object]] = {
        "l": lambda: (list(sink.list()), "w" in permissions and sink.stat("a")),
        "r": lambda: [*sink.read("a")] if "w" in permissions else None,
        "w": lambda: sink.put("c", [b"x"]),
        "d": lambda: sink.delete("b") if "w" in permissions else None,
    }
    for permission, act in actions.items():
        if permission in permissions:
            act()
    refused: dict[str, Callable[[], object]] = {
        "l": lambda: list(sink.list()),
        "r": lambda: list(sink.read("a")),
        "w": lambda: sink.put("c", [b"x"]),
        "d": lambda: sink.delete("a"),
    }
    for permission in set("lrwd") - set(permissions):
        with pytest.raises(SinkPermissionError) as caught:
            refused[permission]()
        assert caught.value.context["permission"] == permission
    assert sink.capabilities.deletable == ("d" in permissions)


def test_unknown_permissions_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        MemorySink(permissions="lrwx")


def test_contents_show_everything_whatever_the_permissions() -> None:
    sink = MemorySink(permissions="w")
    sink.put("b", [b"2"])
    sink.put("a", [b"1"])
    assert sink.contents() == {"a": b"1", "b": b"2"}
