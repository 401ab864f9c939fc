from knowtation_backup.sandbox.execution.images import MemoryImage
from knowtation_backup.sandbox.execution.stable import MAX_STABLE_PAGES, StableMemory

PAGE = 65_536


def filled() -> StableMemory:
    image = MemoryImage(2 * PAGE)
    image.write(0, b"a" * 2 * PAGE)
    return StableMemory(image)


def test_rollback_restores_overwritten_bytes_and_size() -> None:
    stable = filled()
    stable.write(4090, b"bbbbbbbbbbbb")
    stable.write(2 * PAGE - 1, b"b")
    assert stable.grow(3) == 2
    stable.write(2 * PAGE, b"new")

    stable.rollback()

    assert stable.size_pages == 2
    assert stable.image.read(0, 2 * PAGE) == b"a" * 2 * PAGE


def test_rollback_after_commit_returns_to_the_commit() -> None:
    stable = filled()
    stable.write(0, b"one")
    assert stable.commit() == 3
    stable.write(0, b"two")

    stable.rollback()

    assert stable.image.read(0, 4) == b"onea"


def test_bytes_beyond_the_committed_size_do_not_come_back_after_growing_again() -> None:
    stable = filled()
    stable.grow(1)
    stable.write(2 * PAGE, b"secret")
    stable.rollback()

    stable.grow(1)

    assert stable.image.read(2 * PAGE, 6) == bytes(6)


def test_repeated_writes_to_a_page_keep_its_oldest_bytes() -> None:
    stable = filled()
    for text in (b"1", b"2", b"3"):
        stable.write(10, text)

    stable.rollback()

    assert stable.image.read(10, 1) == b"a"


def test_growing_beyond_the_limit_of_the_network_fails() -> None:
    stable = filled()

    assert stable.grow(MAX_STABLE_PAGES - 1) == -1
    assert stable.size_pages == 2


def test_private_memory_leaves_the_image_alone() -> None:
    image = MemoryImage(PAGE)
    stable = StableMemory(image, private=True)
    assert stable.image is image

    stable.write(0, b"mine")

    assert stable.image.read(0, 4) == b"mine"
    assert image.read(0, 4) == bytes(4)
    stable.close()
    assert image.read(0, 1) == b"\0"
