import os

import pytest

from knowtation_backup.sandbox.execution.images import MemoryImage

MIB = 1 << 20


def extents_size(image: MemoryImage) -> int:
    return sum(end - start for start, end in image.extents())


def test_new_image_is_zero_and_has_no_data() -> None:
    image = MemoryImage(MIB)

    assert image.size_bytes == MIB
    assert image.read(0, MIB) == bytes(MIB)
    assert list(image.extents()) == []


def test_written_bytes_are_read_back_at_their_offset() -> None:
    image = MemoryImage(MIB)

    image.write(12_345, b"knowtation")

    assert image.read(12_344, 12) == b"\0knowtation\0"


def test_writes_accept_any_buffer() -> None:
    image = MemoryImage(16)

    image.write(0, bytearray(b"ab"))
    image.write(2, memoryview(b"cd"))

    assert image.read(0, 4) == b"abcd"


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, 17), (16, 1), (17, 0), (0, -1)])
def test_ranges_outside_are_refused(offset: int, size: int) -> None:
    image = MemoryImage(16)

    with pytest.raises(ValueError, match="outside an image of 16 bytes"):
        image.read(offset, size)
    with pytest.raises(ValueError, match="outside an image of 16 bytes"):
        image.view(offset, size)
    if size >= 0:
        with pytest.raises(ValueError, match="outside an image of 16 bytes"):
            image.write(offset, bytes(size))


def test_growing_adds_zeros_and_shrinking_forgets() -> None:
    image = MemoryImage(4)
    image.write(0, b"abcd")

    image.resize(2)
    image.resize(6)

    assert image.read(0, 6) == b"ab\0\0\0\0"


def test_a_view_shows_the_image_at_any_size() -> None:
    image = MemoryImage()
    assert bytes(image.view(0, 0)) == b""

    image.resize(5000)
    image.write(4990, b"abcdefghij")
    view = image.view(4988, 12)

    assert view.readonly
    assert bytes(view) == b"\0\0abcdefghij"
    image.write(4990, b"X")
    assert bytes(view) == b"\0\0Xbcdefghij"
    image.resize(10_000)
    image.write(9999, b"z")
    assert bytes(image.view(9998, 2)) == b"\0z"
    assert bytes(image.view(4990, 2)) == b"Xb"
    image.close()
    assert bytes(view[2:4]) == b"Xb"


def test_copy_is_independent_and_sparse() -> None:
    image = MemoryImage(1 << 30)
    image.write(600 * MIB, b"x")

    twin = image.copy()
    image.write(600 * MIB, b"y")
    twin.write(0, b"z")

    assert twin.size_bytes == 1 << 30
    assert twin.read(600 * MIB, 1) == b"x"
    assert image.read(0, 1) == b"\0"
    assert extents_size(twin) <= MIB


def test_save_and_load_keep_bytes_size_and_holes(tmp_path: os.PathLike[str]) -> None:
    image = MemoryImage(64 * MIB)
    image.write(5, b"front")
    image.write(64 * MIB - 4, b"tail")
    path = os.path.join(tmp_path, "heap")  # noqa: PTH118 - any path form is accepted

    image.save(path)
    loaded = MemoryImage.load(path)

    assert os.stat(path).st_size == 64 * MIB  # noqa: PTH116 - as above
    assert os.stat(path).st_blocks * 512 <= MIB  # noqa: PTH116 - as above
    assert loaded.read(0, 64 * MIB) == image.read(0, 64 * MIB)
    assert extents_size(loaded) <= MIB


def test_saving_replaces_a_longer_file(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "heap")  # noqa: PTH118 - any path form is accepted
    MemoryImage(100).save(path)
    image = MemoryImage(3)
    image.write(0, b"abc")

    image.save(path)

    assert MemoryImage.load(path).read(0, 3) == b"abc"
    assert MemoryImage.load(path).size_bytes == 3


def test_copying_works_without_kernel_support(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(18, "cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    image = MemoryImage(20 * MIB)
    image.write(9 * MIB, b"data" * MIB)

    assert image.copy().read(0, 20 * MIB) == image.read(0, 20 * MIB)


def test_closing_twice_is_harmless() -> None:
    image = MemoryImage(1)

    image.close()
    image.close()
