"""What is asked for before it is known what there is."""

import threading
import time

import pytest

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup.errors import OperationCancelledError
from knowtation_backup.model.canisters import CHUNK_BYTES, SectionName
from knowtation_backup.snapshots.guessing import Awaited, guessed_parts


def test_the_first_parts_of_both_memories_are_asked_for_in_turn() -> None:
    guesses = guessed_parts(112)
    assert len(guesses) == len(set(guesses)) <= 112
    for section in (SectionName.STABLE_MEMORY, SectionName.WASM_MEMORY):
        offsets = [part.offset for part in guesses if part.section is section]
        assert offsets == list(range(0, len(offsets) * CHUNK_BYTES, CHUNK_BYTES))
    assert {part.size_bytes for part in guesses} == {CHUNK_BYTES}
    assert guesses[0].section is not guesses[1].section


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_few_calls_are_not_spent_on_guesses(calls: int) -> None:
    assert guessed_parts(calls) == ()


@pytest.mark.parametrize("calls", [4, 17, 1000])
def test_at_most_half_of_the_calls_are_guesses(calls: int) -> None:
    assert 0 < len(guessed_parts(calls)) <= calls // 2


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
