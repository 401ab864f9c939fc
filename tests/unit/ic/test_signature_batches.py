"""Signatures that are verified together: the same verdicts as one by one, and nobody waits for long."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pyblst
import pytest

from knowtation_backup.ic import bls
from knowtation_backup.ic.signature_batches import SignatureBatches
from knowtation_backup.sandbox.protocol.crypto import BlsKey

KEY = BlsKey.from_seed(b"a subnet")
PUBLIC = KEY.der[-bls.PUBLIC_KEY_BYTES :]
OTHER = BlsKey.from_seed(b"another subnet")
MESSAGES = [b"message %d" % number for number in range(8)]
SIGNED = [(message, KEY.sign(message)) for message in MESSAGES]


def shifted(signature: bytes, by: bytes, times: int) -> bytes:
    point = pyblst.BlstP1Element.uncompress(signature) + pyblst.BlstP1Element.uncompress(by).scalar_mul(times)
    return bytes(point.compress())


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_genuine_signatures_hold_together(count: int) -> None:
    assert bls.verify_each(PUBLIC, SIGNED[:count]) == [True] * count


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    "bad",
    [
        lambda message: (message + b"!", KEY.sign(message)),
        lambda message: (message, OTHER.sign(message)),
        lambda message: (message, b"\xc0" + bytes(47)),
        lambda message: (message, bytes(48)),
        lambda message: (message, KEY.sign(message)[:-1]),
        lambda message: (message, b""),
    ],
    ids=["message", "key", "infinity", "no point", "cut", "empty"],
)
def test_a_wrong_one_is_found_and_the_others_count(place: int, bad: Callable[[bytes], tuple[bytes, bytes]]) -> None:
    signed = SIGNED[:4]
    signed[place] = bad(signed[place][0])
    assert bls.verify_each(PUBLIC, signed) == [number != place for number in range(4)]


def test_errors_that_cancel_each_other_out_are_found() -> None:
    order = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
    (first, one), (second, two) = SIGNED[:2]
    secret = SIGNED[7][1]
    wrong = [(first, shifted(one, secret, 1)), (second, shifted(two, secret, order - 1))]
    assert bls.verify_each(PUBLIC, wrong) == [False, False]
    swapped = [(first, two), (second, one)]  # their plain sum is right
    assert bls.verify_each(PUBLIC, swapped) == [False, False]


def test_a_key_that_is_none_verifies_nothing() -> None:
    assert bls.verify_each(b"\xc0" + bytes(95), SIGNED[:2]) == [False, False]
    assert bls.verify_each(b"", SIGNED[:2]) == [False, False]


class Counted:
    """Notes the sizes of the batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        real = bls.verify_each

        def counted(key: bytes, signed: list[tuple[bytes, bytes]]) -> list[bool]:
            self.sizes.append(len(signed))
            return real(key, signed)

        monkeypatch.setattr(bls, "verify_each", counted)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def test_each_gets_the_verdict_on_its_own_signature(counted: Counted) -> None:
    batches = SignatureBatches()
    wrong = {3, 8, 20}
    with ExitStack() as calls, ThreadPoolExecutor(24) as pool:
        for _ in range(24):
            calls.enter_context(batches.one_call())
        asked = [
            pool.submit(batches.verify, PUBLIC, MESSAGES[number % 8], SIGNED[(number + (number in wrong)) % 8][1])
            for number in range(24)
        ]
        assert [future.result() for future in asked] == [number not in wrong for number in range(24)]
    assert max(counted.sizes) > 1
    assert sum(counted.sizes) == 24


def test_signatures_of_different_keys_do_not_meet(counted: Counted) -> None:
    batches = SignatureBatches()
    keys = [PUBLIC, OTHER.der[-bls.PUBLIC_KEY_BYTES :]]
    with ExitStack() as calls, ThreadPoolExecutor(8) as pool:
        for _ in range(24):
            calls.enter_context(batches.one_call())
        asked = [pool.submit(batches.verify, keys[number % 2], *SIGNED[number]) for number in range(8)]
        assert [future.result() for future in asked] == [True, False] * 4
    assert max(counted.sizes) <= 4


def test_few_calls_are_not_kept_waiting(counted: Counted) -> None:
    batches = SignatureBatches()
    with batches.one_call():
        assert batches.verify(PUBLIC, *SIGNED[0])
    assert counted.sizes == []


def test_nobody_waits_long_for_others_that_do_not_come() -> None:
    batches = SignatureBatches()
    with ExitStack() as calls:
        for _ in range(100):
            calls.enter_context(batches.one_call())
        before = time.monotonic()
        assert batches.verify(PUBLIC, *SIGNED[0])
        assert time.monotonic() - before < 5


def test_an_interrupted_leader_leaves_the_others_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_key: bytes, _signed: object) -> list[bool]:
        raise KeyboardInterrupt

    batches = SignatureBatches()
    monkeypatch.setattr(bls, "verify_each", interrupted)
    verdicts: list[bool] = []
    ended: list[type[BaseException]] = []

    def ask(number: int) -> None:
        try:
            verdicts.append(batches.verify(PUBLIC, *SIGNED[number]))
        except KeyboardInterrupt as error:
            ended.append(type(error))

    with ExitStack() as calls:
        for _ in range(16):
            calls.enter_context(batches.one_call())
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ended
    assert verdicts == [True] * (4 - len(ended))
