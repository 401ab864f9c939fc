"""KTB2 under attack: every change is refused with its own error, and nothing is released beyond verified chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from ktb2_mini import HYBRID, X25519, File, hkdf

from knowtation_backup.codecs import _slots
from knowtation_backup.codecs._ktb2_header import FileKey, parse_header
from knowtation_backup.codecs._ktb2_payload import Payload
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb2 import Argon2Parameters, Ktb2Codec, OpeningKey, rewrap
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    DecryptionError,
    NoMatchingKeyError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)

KEY = EncryptionKey(raw=bytes(range(32)))
CURVE = PrivateKey(kind="x25519", raw=bytes(range(1, 33)))
HYBRID_KEY = PrivateKey(kind="mlkem768x25519", raw=bytes(range(2, 34)))
WORDS = Passphrase(text="correct horse")
ALL = (KEY, WORDS, CURVE, HYBRID_KEY)
FLOOR = Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1)
C = 4096
FRAME = C + 16
TEXT = bytes(i * 7 % 251 for i in range(3 * C + 100))
"""Three full chunks and a short one."""


@pytest.fixture
def quick_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for Argon2id where thousands of files are opened: still a function of all its parameters."""

    def stand_in(password: bytes, salt: bytes, *numbers: int) -> bytes:
        return hkdf(password, salt, repr(numbers).encode())

    monkeypatch.setattr(_slots, "_argon2id", stand_in)


def seal(text: bytes, *keys: OpeningKey) -> bytes:
    seal_to = [key.public_key if isinstance(key, PrivateKey) else key for key in keys or (KEY,)]
    return b"".join(Ktb2Codec(seal_to=seal_to, chunk_bytes=C, kdf=FLOOR).seal([text]))


def attempt(data: bytes, *keys: OpeningKey) -> tuple[bytes, BackupError | None]:
    released = bytearray()
    try:
        for piece in Ktb2Codec(open_with=keys or (KEY,)).open(lambda: iter([data])):
            released += piece
    except BackupError as error:
        return bytes(released), error
    return bytes(released), None


def parts(data: bytes) -> tuple[bytes, list[bytes], bytes, list[bytes]]:
    """Cut a file into preamble, slots, MAC and chunks."""
    slots, at = [], 32
    for _ in range(data[7]):
        end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        slots.append(data[at:end])
        at = end
    chunks = [data[i : i + FRAME] for i in range(at + 32, len(data), FRAME)]
    return data[:32], slots, data[at : at + 32], chunks


def joined(preamble: bytes, slots: list[bytes], mac: bytes, chunks: list[bytes]) -> bytes:
    """Put a file together, with counts that fit its slots."""
    body = b"".join(slots)
    head = preamble[:7] + bytes([len(slots)]) + preamble[8:24] + len(body).to_bytes(4, "big") + preamble[28:]
    return head + body + mac + b"".join(chunks)


def outcome(error: BackupError | None) -> Refusal:
    assert error is not None, "the change went unnoticed"
    return type(error), error.kind


Refusal = tuple[type[BackupError], str]

BAD_MAGIC: Refusal = (UnsupportedFormatError, "bad_magic")
NEWER: Refusal = (UnsupportedFormatError, "unsupported_format")
BAD_HEADER: Refusal = (TamperedError, "bad_header")
CHANGED_HEADER: Refusal = (TamperedError, "header_tampered")
CUT: Refusal = (TruncatedError, "truncated")
NO_KEY: Refusal = (NoMatchingKeyError, "no_matching_key")
CHANGED: Refusal = (TamperedError, "tampered")


def expected_of_bit(data: bytes, position: int, bit: int) -> set[Refusal]:  # noqa: PLR0911 - a table
    """Return what a reader with `KEY`, whose slot is the first, may say to one flipped bit."""
    changed = data[position] ^ 1 << bit
    _, slots, mac, _ = parts(data)
    end = 32 + sum(map(len, slots))
    if position < 4:
        return {BAD_MAGIC}
    if position in {4, 5, 28, 29, 30, 31}:
        return {NEWER}
    if position == 6:
        return {CHANGED_HEADER} if 12 <= changed <= 24 else {NEWER}
    if position == 7:
        return {BAD_HEADER}
    if position < 24:
        return {CHANGED_HEADER}  # the file id: the slot of the key no longer opens
    if position < 28:
        return {BAD_HEADER, CUT}
    if position >= end + len(mac):
        return {CHANGED}
    at = 32
    for number, slot in enumerate(slots):
        if at <= position < at + 4:
            unknown = NO_KEY if number == 0 else CHANGED_HEADER
            retyped = {BAD_HEADER} if slot[0] == 3 and changed in {1, 2} else {unknown}
            return (retyped, {NEWER}, {BAD_HEADER, NEWER}, {BAD_HEADER, NEWER})[position - at]
        at += len(slot)
    return {CHANGED_HEADER}  # bodies of slots, and the MAC


@pytest.mark.usefixtures("quick_argon2")
def test_every_flipped_bit_has_its_error_and_releases_nothing() -> None:
    data = seal(b"attack at dawn, the usual place", *ALL)
    changed = bytearray(data)
    for position in range(len(data)):
        for bit in range(8):
            changed[position] ^= 1 << bit
            released, error = attempt(bytes(changed))
            changed[position] ^= 1 << bit
            assert outcome(error) in expected_of_bit(data, position, bit), (position, bit)
            assert released == b""


@pytest.mark.usefixtures("quick_argon2")
@pytest.mark.parametrize("key", ALL, ids=["key", "passphrase", "x25519", "hybrid"])
def test_a_flipped_bit_anywhere_is_noticed_with_every_kind_of_key(key: OpeningKey) -> None:
    data = seal(b"attack at dawn, the usual place", key)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        released, error = attempt(bytes(changed), key)
        kinds = {outcome(error)}
        allowed = {BAD_MAGIC, NEWER, BAD_HEADER, CHANGED_HEADER, CUT, CHANGED, NO_KEY}
        if isinstance(key, Passphrase):
            allowed |= {(DecryptionError, "weak_parameters"), (DecryptionError, "excessive_parameters")}
        assert kinds <= allowed, position
        if 36 < position < len(data) - 31 - 16 - 32 and not isinstance(key, Passphrase):
            assert kinds == {CHANGED_HEADER} or position - 36 < 6, position
        assert released == b""


def test_a_flipped_bit_releases_the_chunks_before_it_and_no_other() -> None:
    text = TEXT[: C + 100]
    data = seal(text)
    start = len(data) - len(b"".join(parts(data)[3]))
    for position in range(start, len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        released, error = attempt(bytes(changed))
        number = (position - start) // FRAME
        assert outcome(error) == CHANGED
        assert error is not None
        assert error.context["chunk"] == number
        assert released == text[: number * C]


def test_every_cut_is_noticed() -> None:
    text = TEXT[: C + 60]
    data = seal(text)
    start = len(data) - len(text) - 32
    for size in range(len(data)):
        released, error = attempt(data[:size])
        whole, rest = divmod(max(0, size - start), FRAME)
        # A piece as short as a tag can be no chunk; of a longer one only the failing tag is known.
        certain = size < start or rest < 16 or (rest == 16 and whole > 0)
        assert outcome(error) == (CUT if certain else CHANGED), size
        assert released == text[: whole * C], size


def test_a_cut_between_full_chunks_is_a_truncation() -> None:
    data = seal(TEXT[: 3 * C])
    for missing in (1, 2):
        released, error = attempt(data[: -missing * FRAME])
        assert outcome(error) == CUT
        assert "not its last" in str(error)
        assert released == TEXT[: (3 - missing) * C]


def test_a_file_cut_to_nothing_but_its_header_is_not_an_empty_one() -> None:
    data = seal(TEXT)
    header = data[: -len(b"".join(parts(data)[3]))]
    assert outcome(attempt(header)[1]) == CUT
    assert outcome(attempt(header + bytes(16))[1]) == CHANGED


Shuffle = Callable[[list[bytes], list[bytes]], list[bytes]]

SHUFFLES: dict[str, tuple[Shuffle, Refusal, int]] = {
    "first two swapped": (lambda a, _: [a[1], a[0], *a[2:]], CHANGED, 0),
    "middle two swapped": (lambda a, _: [a[0], a[2], a[1], a[3]], CHANGED, 1),
    "last two swapped": (lambda a, _: [a[0], a[1], a[3], a[2]], CHANGED, 2),
    "first repeated": (lambda a, _: [a[0], *a], CHANGED, 1),
    "last repeated": (lambda a, _: [*a, a[3]], CHANGED, 3),
    "first dropped": (lambda a, _: a[1:], CHANGED, 0),
    "middle dropped": (lambda a, _: [a[0], *a[2:]], CHANGED, 1),
    "last dropped": (lambda a, _: a[:3], CUT, 3),
    "all but the last dropped": (lambda a, _: a[3:], CHANGED, 0),
    "all dropped": (lambda _a, _b: [], CUT, 0),
    "one byte appended": (lambda a, _: [*a, b"\0"], CHANGED, 3),
    "a chunk of zeros appended": (lambda a, _: [*a, bytes(FRAME)], CHANGED, 3),
    "the other file's first in place of ours": (lambda a, b: [b[0], *a[1:]], CHANGED, 0),
    "the other file's second in place of ours": (lambda a, b: [a[0], b[1], *a[2:]], CHANGED, 1),
    "the other file's last in place of ours": (lambda a, b: [*a[:3], b[3]], CHANGED, 3),
    "all of the other file's": (lambda _, b: b, CHANGED, 0),
    "the other file's appended": (lambda a, b: [*a, *b], CHANGED, 3),
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_chunks_stay_where_they_were_sealed(name: str) -> None:
    shuffle, expected, released_chunks = SHUFFLES[name]
    preamble, slots, mac, ours = parts(seal(TEXT))
    theirs = parts(seal(TEXT))[3]
    released, error = attempt(joined(preamble, slots, mac, shuffle(ours, theirs)))
    assert outcome(error) == expected
    assert released == TEXT[: released_chunks * C]


@pytest.mark.parametrize("extra", [b"\0", bytes(16), bytes(17), bytes(FRAME), bytes(2 * FRAME)])
def test_bytes_after_a_full_last_chunk_are_named(extra: bytes) -> None:
    text = TEXT[: 2 * C]
    released, error = attempt(seal(text) + extra)
    assert outcome(error) == (TamperedError, "trailing_data")
    assert released == text


def honest(**changes: object) -> File:
    file = File(file_key=bytes(range(32, 64)), file_id=bytes(range(16)))
    file.add_key(KEY.raw, b"s" * 16)
    for name, value in changes.items():
        setattr(file, name, value)
    return file


LAST_FLAGS: dict[str, tuple[list[tuple[int, bool, int]], Refusal, int]] = {
    # plaintext bytes, last flag, number of each chunk
    "none is the last": ([(C, False, 0), (9, False, 1)], CHANGED, 1),
    "none of full ones is the last": ([(C, False, 0), (C, False, 1)], CUT, 2),
    "the first is the last too": ([(C, True, 0), (9, True, 1)], (TamperedError, "trailing_data"), 1),
    "an empty last chunk after a full one": ([(C, False, 0), (0, True, 1)], CUT, 1),
    "an empty chunk that is not the last": ([(0, False, 0)], CHANGED, 0),
    "a short chunk in the middle": ([(9, False, 0), (9, True, 1)], CHANGED, 0),
    "numbers begin at one": ([(C, False, 1), (9, True, 2)], CHANGED, 0),
    "a number is left out": ([(C, False, 0), (9, True, 2)], CHANGED, 1),
}


@pytest.mark.parametrize("name", LAST_FLAGS)
def test_holders_of_the_file_key_cannot_play_with_the_last_flag_either(name: str) -> None:
    chunks, expected, released_chunks = LAST_FLAGS[name]
    file = honest()
    stored = b"".join(file.chunk(number, bytes(size), last=last) for size, last, number in chunks)
    released, error = attempt(file.header() + stored)
    assert outcome(error) == expected
    assert released == bytes(released_chunks * C)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": 2}, NEWER),
        ({"version": 0}, NEWER),
        ({"cipher": 2}, NEWER),
        ({"exponent": 11}, NEWER),
        ({"exponent": 25}, NEWER),
        ({"reserved": b"\0\0\0\1"}, NEWER),
        ({"count": 0}, BAD_HEADER),
        ({"count": 2}, BAD_HEADER),
        ({"count": 65}, BAD_HEADER),
        ({"slots": [b"\1\0\0\0"]}, BAD_HEADER),
        ({"slots": [b"\1\1\0\0"]}, NEWER),
        ({"slots": [b"\1\0\0\xff"]}, BAD_HEADER),
        ({"slots": [b"\2\0\0\1\0"]}, BAD_HEADER),
        ({"slots": [b"\3\0\0\6\0\x20\0\1\0\2"]}, BAD_HEADER),
        ({"slots": [b"\3\0\0\6\0\x10\0\1\0\2"]}, NO_KEY),
        ({"slots": [b"\3\0\0\0"]}, NO_KEY),
        ({"slots": [b"\x09\0\0\2hi"]}, NO_KEY),
    ],
)
def test_an_authenticated_header_must_make_sense_too(changes: dict[str, object], expected: Refusal) -> None:
    released, error = attempt(honest(**changes).seal(b"text") if "exponent" not in changes else _odd(changes))
    assert outcome(error) == expected
    assert released == b""


def _odd(changes: dict[str, object]) -> bytes:
    return honest(**changes).header() + bytes(100)


@pytest.mark.parametrize(("slots", "expected"), [(64, None), (65, BAD_HEADER)])
def test_a_header_has_64_slots_at_most(slots: int, expected: Refusal | None) -> None:
    file = honest()
    for _ in range(slots - 1):
        file.add_unknown(99, b"")
    released, error = attempt(file.seal(b"text"))
    assert (released, error and outcome(error)) == (b"" if expected else b"text", expected)


@pytest.mark.parametrize(("size", "expected"), [(256 * 1024, None), (256 * 1024 + 1, BAD_HEADER)])
def test_slots_have_256_kib_at_most(size: int, expected: Refusal | None) -> None:
    file = honest()
    for body in (65_505, 65_505, 65_505, size - 108 - 3 * 65_509 - 4):
        file.add_unknown(99, bytes(body))
    data = file.seal(b"text")
    assert int.from_bytes(data[24:28], "big") == size
    released, error = attempt(data)
    assert (released, error and outcome(error)) == (b"" if expected else b"text", expected)


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_a_slot_without_room_for_its_head_is_refused(left: int) -> None:
    file = honest(count=2)
    file.slots[0] += bytes(left)
    assert outcome(attempt(file.seal(b"text"))[1]) == BAD_HEADER


def test_a_size_of_slots_beyond_all_bounds_is_refused_before_they_are_read() -> None:
    preamble = honest().header()[:24] + b"\xff" * 4 + bytes(4)
    taken: list[bytes] = []

    def read() -> Iterator[bytes]:
        for piece in (preamble, *[bytes(4096)] * 100):
            taken.append(piece)
            yield piece

    with pytest.raises(TamperedError) as caught:
        list(Ktb2Codec(open_with=KEY).open(read))
    assert outcome(caught.value) == BAD_HEADER
    assert taken == [preamble]


@pytest.mark.parametrize("position", [4 + 28, 4 + 28 + 15, 4 + 28 + 16, 4 + 28 + 31])
def test_all_of_a_commitment_is_compared(position: int) -> None:
    preamble, slots, mac, chunks = parts(seal(b"text", WORDS))
    changed = bytearray(slots[0])
    changed[position] ^= 1
    assert outcome(attempt(joined(preamble, [bytes(changed)], mac, chunks), WORDS)[1]) == NO_KEY


@pytest.mark.parametrize("number", [256, 65_536, 2**24, 2**32 - 1])
def test_numbers_of_chunks_never_come_round(number: int) -> None:
    """A chunk of a number that has two bytes or more is no other chunk, at its own place or elsewhere."""
    file = honest()
    header = parse_header(file.header())
    payload = Payload(header, FileKey(file.file_key))
    stored = memoryview(file.chunk(number, b"text", last=True))
    assert payload.open_one(number, stored, last=True) == b"text"
    for other in (0, number % 256, number % 65_536, number - 1):
        if other != number:
            with pytest.raises(TamperedError):
                payload.open_one(other, stored, last=True)


def test_slots_of_a_later_release_are_passed_over_but_authenticated() -> None:
    file = honest()
    file.add_unknown(200, b"something new")
    file.add_unknown(3, b"\x12\x34\0\1\0\2 another suite")
    assert attempt(file.seal(b"text")) == (b"text", None)
    preamble, slots, mac, chunks = parts(file.seal(b"text"))
    changed = [slots[0], slots[1][:-1] + b"!", slots[2]]
    assert outcome(attempt(joined(preamble, changed, mac, chunks))[1]) == CHANGED_HEADER


@pytest.mark.parametrize("key", [KEY, CURVE, HYBRID_KEY], ids=["key", "x25519", "hybrid"])
def test_slots_cannot_be_removed_added_or_moved(key: OpeningKey) -> None:
    other = EncryptionKey(raw=bytes(32))
    preamble, slots, mac, chunks = parts(seal(TEXT, key, other))
    theirs = parts(seal(TEXT, key, other))
    for changed in (
        [slots[0]],
        [slots[1], slots[0]],
        [slots[0], slots[0], slots[1]],
        [*slots, theirs[1][1]],
        [slots[0], theirs[1][1]],
        [theirs[1][0], slots[1]],
        theirs[1],
    ):
        assert outcome(attempt(joined(preamble, changed, mac, chunks), key)[1]) == CHANGED_HEADER
    assert outcome(attempt(joined(preamble, [slots[1]], mac, chunks), key)[1]) == NO_KEY
    # All of the other file's header: it is genuine, but the chunks are not its own.
    assert outcome(attempt(joined(*theirs[:3], chunks), key)[1]) == CHANGED
    assert outcome(attempt(joined(preamble, slots, theirs[2], chunks), key)[1]) == CHANGED_HEADER


def test_a_slot_under_another_keys_id_is_a_change_and_not_another_key() -> None:
    for key in (KEY, CURVE, HYBRID_KEY):
        preamble, slots, mac, chunks = parts(seal(b"text", key))
        at = 4 if key is KEY else 10
        renamed = slots[0][:at] + bytes(8) + slots[0][at + 8 :]
        assert outcome(attempt(joined(preamble, [renamed], mac, chunks), key)[1]) == CHANGED_HEADER


def test_the_wrong_recipient_is_told_which_keys_open_the_file() -> None:
    data = seal(b"text", KEY, CURVE, HYBRID_KEY)
    strangers: list[OpeningKey] = [EncryptionKey.generate(), PrivateKey.generate("x25519"), PrivateKey.generate()]
    for stranger in strangers:
        released, error = attempt(data, stranger)
        assert outcome(error) == NO_KEY
        assert released == b""
        assert error is not None
        assert error.context["wanted"] == (KEY.key_id, CURVE.key_id, HYBRID_KEY.key_id)
        assert not isinstance(stranger, Passphrase)
        assert error.context["given"] == (stranger.key_id,)
    assert attempt(data, *strangers, CURVE) == (b"text", None)


def test_a_wrong_passphrase_is_no_matching_key() -> None:
    released, error = attempt(seal(b"text", WORDS), Passphrase(text="correct horst"))
    assert outcome(error) == NO_KEY
    assert released == b""
    assert "horst" not in f"{error}{error!r}{error.context if error else ''}"


@pytest.fixture
def no_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> bytes:
        raise AssertionError("these parameters must not be tried")

    monkeypatch.setattr(_slots, "_argon2id", refuse)


def with_costs(memory: int, iterations: int, lanes: int, *, slots: int = 1) -> bytes:
    """Make a file whose header MAC is right, with passphrase slots of any costs."""
    file = honest()
    costs = b"".join(number.to_bytes(4, "big") for number in (memory, iterations, lanes))
    for _ in range(slots):
        file.add_unknown(2, costs + bytes(16 + 32 + 48))
    return file.seal(b"text")


@pytest.mark.usefixtures("no_argon2")
@pytest.mark.parametrize(
    ("costs", "kind"),
    [
        ((19 * 1024 - 1, 3, 4), "weak_parameters"),
        ((64 * 1024, 1, 4), "weak_parameters"),
        ((8, 1, 1), "weak_parameters"),
        ((0, 0, 0), "weak_parameters"),
        ((64 * 1024, 3, 0), "weak_parameters"),
        ((1024 * 1024 + 1, 3, 4), "excessive_parameters"),
        ((0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF), "excessive_parameters"),
        ((64 * 1024, 65, 4), "excessive_parameters"),
        ((64 * 1024, 3, 17), "excessive_parameters"),
        ((1024 * 1024, 5, 4), "excessive_parameters"),
    ],
)
def test_downgraded_and_exhausting_passphrase_slots_are_refused_unopened(
    costs: tuple[int, int, int], kind: str
) -> None:
    released, error = attempt(with_costs(*costs), WORDS)
    assert outcome(error) == (DecryptionError, kind)
    assert released == b""
    # They are no obstacle for who needs no passphrase.
    assert attempt(with_costs(*costs), WORDS, KEY) == (b"text", None)


@pytest.mark.usefixtures("no_argon2")
def test_more_passphrase_slots_than_anybody_writes_are_not_tried() -> None:
    data = with_costs(64 * 1024, 3, 4, slots=5)
    _, error = attempt(data, WORDS)
    assert outcome(error) == (DecryptionError, "excessive_parameters")
    # They are no obstacle for who has no passphrase.
    assert attempt(data, KEY) == (b"text", None)
    assert outcome(attempt(data, CURVE)[1]) == NO_KEY


@pytest.mark.usefixtures("quick_argon2")
def test_as_many_passphrases_as_may_be_written_are_tried() -> None:
    words = [Passphrase(text=f"words {number}") for number in range(4)]
    data = seal(b"text", *words)
    assert [attempt(data, one) for one in words] == [(b"text", None)] * 4


def test_parameters_downgraded_in_a_stored_file_are_refused() -> None:
    preamble, slots, mac, chunks = parts(seal(b"text", WORDS))
    weak = slots[0][:4] + (8 * 1024).to_bytes(4, "big") + slots[0][8:]
    assert outcome(attempt(joined(preamble, [weak], mac, chunks), WORDS)[1]) == (DecryptionError, "weak_parameters")
    other = slots[0][:8] + (3).to_bytes(4, "big") + slots[0][12:]
    assert outcome(attempt(joined(preamble, [other], mac, chunks), WORDS)[1]) == NO_KEY


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (MemoryError(), (DecryptionError, "excessive_parameters")),
        (UnsupportedAlgorithm("no Argon2id"), (ConfigurationError, "missing_algorithm")),
    ],
)
def test_memory_or_argon2_that_is_not_there_is_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, expected: Refusal
) -> None:
    data = seal(b"text", WORDS)

    class Missing:
        def __init__(self, **_options: object) -> None: ...

        def derive(self, _password: bytes) -> bytes:
            raise failure

    monkeypatch.setattr(_slots, "Argon2id", Missing)
    _, error = attempt(data, WORDS)
    assert outcome(error) == expected
    assert error is not None
    assert error.__context__ is None


def test_a_wrapped_key_that_was_changed_is_no_wrong_key() -> None:
    for key in (KEY, WORDS):
        preamble, slots, mac, chunks = parts(seal(b"text", key))
        changed = slots[0][:-1] + bytes([slots[0][-1] ^ 1])
        assert outcome(attempt(joined(preamble, [changed], mac, chunks), key)[1]) == CHANGED_HEADER


def test_one_header_cannot_fit_two_file_keys() -> None:
    """The MAC commits: two recipients of one file get the same file key or one of them an error."""
    one = honest()
    other = File(file_key=bytes(32), file_id=one.file_id)
    other.add_key(bytes(32), b"t" * 16)
    one.slots += other.slots
    data = one.seal(b"text")
    assert attempt(data) == (b"text", None)
    assert outcome(attempt(data, EncryptionKey(raw=bytes(32)))[1]) == CHANGED_HEADER


def test_x25519_points_of_small_order_in_a_slot_are_refused() -> None:
    file = honest()
    file.add_recipient(X25519, CURVE.public_key.raw, b"e" * 32)
    preamble, slots, mac, chunks = parts(file.seal(b"text"))
    zero = slots[1][:18] + bytes(32) + slots[1][50:]
    assert outcome(attempt(joined(preamble, [slots[0], zero], mac, chunks), CURVE)[1]) == CHANGED_HEADER


def test_damage_does_not_travel_through_a_rewrap() -> None:
    preamble, slots, mac, chunks = parts(seal(TEXT))
    damaged = joined(preamble, slots, mac, [chunks[0], chunks[2], chunks[1], chunks[3]])
    new = rewrap(lambda: iter([damaged]), open_with=KEY, seal_to=EncryptionKey.generate())
    next(new)
    assert next(new) == chunks[0]
    with pytest.raises(TamperedError):
        next(new)


def test_the_hybrid_needs_both_of_its_parts() -> None:
    file = honest()
    file.add_recipient(HYBRID, HYBRID_KEY.public_key.raw, b"e" * 32)
    preamble, slots, mac, chunks = parts(file.seal(b"text"))
    mlkem_end, curve_end = 18 + 1088, 18 + 1120
    for position in (18, mlkem_end - 1, mlkem_end, curve_end - 1):
        changed = bytearray(slots[1])
        changed[position] ^= 1
        data = joined(preamble, [slots[0], bytes(changed)], mac, chunks)
        assert outcome(attempt(data, HYBRID_KEY)[1]) == CHANGED_HEADER
