"""Every error: stable kind, picklable, a class handlers can catch."""

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator

import pytest

import knowtation_backup
from knowtation_backup import errors
from knowtation_backup.errors import BackupError, BlobExistsError, BlobNotFoundError, ConfigurationError, RejectedError
from knowtation_backup.sandbox import Rejected, SandboxClock, candid
from knowtation_backup.sandbox.messages import RejectCode


def _defined() -> Iterator[type[Exception]]:
    """Every exception class of the package, wherever it is defined."""
    for info in pkgutil.walk_packages(knowtation_backup.__path__, "knowtation_backup."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == info.name:
                yield value


def _name(cls: type[Exception]) -> str:
    return f"{cls.__module__.removeprefix('knowtation_backup.')}.{cls.__name__}"


DEFINED = sorted(set(_defined()), key=_name)
ALL = [cls for cls in DEFINED if cls.__module__ == errors.__name__ and issubclass(cls, BackupError)]

CAUGHT_INSIDE = {
    "ic.cbor.CborError",
    "sandbox.execution.native.WasmTrap",
    "sandbox.execution.wasm_binary.WasmFormatError",
    "sandbox.protocol.crypto.UnsupportedKeyError",
    "sandbox.protocol.http1.BadRequestError",
    "sandbox.protocol.ingress.IngressError",
}
"""Messages between internal modules, which become errors of ours, refusals or HTTP replies before they get out."""


def test_every_exception_class_that_can_get_out_is_a_backup_error() -> None:
    others = {
        _name(cls)
        for cls in DEFINED
        if not issubclass(cls, BackupError) and not any(part.startswith("_") for part in _name(cls).split("."))
    }
    assert others == CAUGHT_INSIDE


def test_kinds_are_unique_in_the_whole_package() -> None:
    kinds = [cls.default_kind for cls in DEFINED if issubclass(cls, BackupError) and "default_kind" in vars(cls)]
    assert {"internal", "sandbox_rejected", "candid"} <= set(kinds)
    assert len(set(kinds)) == len(kinds)


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


def test_every_class_is_public() -> None:
    assert {cls.__name__ for cls in ALL} == set(errors.__all__)


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


def test_a_refusal_of_the_sandbox_is_a_value_and_an_error() -> None:
    refusal = Rejected("IC0503", "the canister trapped")
    assert isinstance(refusal, RejectedError)
    assert (refusal.kind, refusal.code, refusal.reject_code) == ("sandbox_rejected", RejectCode.CANISTER_ERROR, 5)
    assert not refusal.certified
    assert refusal == Rejected("IC0503", "the canister trapped")
    assert refusal != Rejected("IC0503", "something else")
    assert refusal != Rejected("IC0502", "the canister trapped")
    assert refusal != RejectedError("the canister trapped")
    assert len({refusal, Rejected("IC0503", "the canister trapped")}) == 1
    assert str(refusal) == "IC0503: the canister trapped"
    copy = pickle.loads(pickle.dumps(refusal))  # noqa: S301 - our own bytes
    assert copy == refusal
    assert (copy.code, copy.context, copy.kind) == (refusal.code, refusal.context, refusal.kind)
    assert len(Rejected("IC0503", "ä" * 10_000).message.encode()) <= 8 << 10


def test_other_mistakes_with_the_sandbox_are_backup_errors() -> None:
    with pytest.raises(ConfigurationError, match="cannot go back"):
        SandboxClock().advance(-1)
    with pytest.raises(errors.IntegrityError) as caught:
        candid.decode(b"not Candid", [candid.TEXT])
    assert caught.value.kind == "candid"
    assert isinstance(caught.value, ValueError)
