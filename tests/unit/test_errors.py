"""Every error: stable kind, picklable, a class handlers can catch."""

import pickle
from collections.abc import Iterator

import pytest

from knowtation_backup import errors
from knowtation_backup.errors import BackupError, BlobExistsError, BlobNotFoundError, ConfigurationError, RejectedError


def _tree(cls: type[BackupError] = BackupError) -> Iterator[type[BackupError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


ALL = sorted(set(_tree()), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_survives_pickle_with_all_its_facts(cls: type[BackupError]) -> None:
    error = cls("chunk 17 is short", kind="short_chunk", hint="retry", offset=5, status=503)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is cls
    assert (copy.message, copy.kind, copy.hint, copy.context) == (
        "chunk 17 is short",
        "short_chunk",
        "retry",
        {"offset": 5, "status": 503},
    )
    assert str(copy) == "chunk 17 is short (retry)"


def test_kinds_are_unique_and_every_class_is_public() -> None:
    kinds = [cls.default_kind for cls in ALL]
    assert len(set(kinds)) == len(kinds)
    own = {cls.__name__ for cls in ALL if cls.__module__ == errors.__name__}
    assert own == set(errors.__all__)


def test_classes_fit_the_handlers_people_already_have() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(BlobNotFoundError, LookupError)
    assert issubclass(BlobExistsError, FileExistsError)


def test_a_message_without_hint_stands_alone() -> None:
    assert str(BackupError("disk on fire")) == "disk on fire"


def test_rejections_say_whether_a_subnet_signed_them() -> None:
    assert RejectedError("no", certified=True, reject_code=4).certified
    assert RejectedError("no", certified=True, reject_code=4).reject_code == 4
    assert not RejectedError("no", status=403).certified
    assert RejectedError("no", status=403).reject_code is None
