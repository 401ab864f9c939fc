"""What is asked for before it is known what there is."""

import threading
import time

import pytest

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup.errors import OperationCancelledError
from knowtation_backup.model.canisters import CHUNK_BYTES, SectionName
from knowtation_backup.snapshots.guessing import Awaited, guessed_parts


def test_the_first_parts_of_both_memories_are_asked_for() -> None:
    guesses = guessed_parts(112)
    assert len(guesses) == len(set(guesses)) == 81
    for section, count in ((SectionName.STABLE_MEMORY, 54), (SectionName.WASM_MEMORY, 27)):
        offsets = [part.offset for part in guesses if part.section is section]
        assert offsets == list(range(0, count * CHUNK_BYTES, CHUNK_BYTES))
    assert {part.size_bytes for part in guesses} == {CHUNK_BYTES}


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_few_calls_are_not_spent_on_guesses(calls: int) -> None:
    assert guessed_parts(calls) == ()


@pytest.mark.parametrize("calls", [4, 17, 1000])
def test_some_calls_are_left_for_what_is_known(calls: int) -> None:
    assert 0 < len(guessed_parts(calls)) <= calls * 3 // 4


def test_those_that_wait_get_the_value_when_it_is_there() -> None:
    awaited: Awaited[int] = Awaited(Cancellation())
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(awaited.get()))
    waiting.start()
    awaited.provide(7)
    waiting.join()
    assert found == [awaited.get()] == [7]


def test_those_that_wait_end_when_it_will_never_be_there() -> None:
    cancellation = Cancellation()
    awaited: Awaited[int] = Awaited(cancellation)
    threading.Timer(0.01, cancellation.cancel).start()
    before = time.monotonic()
    with pytest.raises(OperationCancelledError):
        awaited.get()
    assert time.monotonic() - before < 5
