"""Identities: keys in every form that tools write, delegations, other libraries' identities, and no key in any text."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import logging
import os
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from ic.identity import DelegateIdentity as IcPyDelegateIdentity
from ic.identity import Identity as IcPyIdentity
from icp_identity.identity import DelegateIdentity as IcpPyCoreDelegateIdentity  # type: ignore[import-untyped]
from icp_identity.identity import Identity as IcpPyCoreIdentity

from knowtation_backup.errors import BackupError, ConfigurationError
from knowtation_backup.ic.delegation_chain import DelegationChain, SignedDelegation, check_delegations
from knowtation_backup.ic.identity import (
    AnonymousIdentity,
    DelegatedIdentity,
    Identity,
    KeyIdentity,
    identity_from_pem,
    identity_from_pem_file,
    identity_of,
    key_file_findings,
)
from knowtation_backup.ic.wire import IC_REQUEST, IC_REQUEST_AUTH_DELEGATION, content_hash, signed_request
from knowtation_backup.model.ids import ANONYMOUS, MANAGEMENT_CANISTER, Principal

REQUEST_ID = bytes.fromhex("1d1091364d6bb8a6c16b203ee75467d59ead468f523eb058880ae8ec80e2b101")
CANISTER = Principal(bytes.fromhex("00000000000000010101"))
EXPIRY = 1_685_570_400_000_000_000
ZERO_SEED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
ZERO_PRINCIPAL = "535yc-uxytb-gfk7h-tny7p-vjkoe-i4krp-3qmcl-uqfgr-cpgej-yqtjq-rqe"
SECP256K1_ONE = ec.derive_private_key(1, ec.SECP256K1())
SECP256K1_PRINCIPAL = "vh5jj-2v5av-uunuh-hbba5-pss3b-vrzng-7dqdp-xcku3-zj2tc-36shc-bqe"
P256_ONE = ec.derive_private_key(1, ec.SECP256R1())
P256_PRINCIPAL = "svixd-dijgl-w65hb-fx6lq-ctonm-iiyi2-hprpy-gmara-jouum-z4mxg-3ae"
EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBgUrgQQACg==\n-----END EC PARAMETERS-----\n"
PLAIN = serialization.NoEncryption()
PKCS8 = serialization.PrivateFormat.PKCS8
SEC1 = serialization.PrivateFormat.TraditionalOpenSSL
SECRET_SEED = bytes(range(100, 132))
SECRET_TEXTS = (SECRET_SEED.hex(), base64.b64encode(SECRET_SEED).decode(), repr(SECRET_SEED)[2:-1])

Key = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def _pem(key: Any, form: serialization.PrivateFormat = PKCS8, encryption: Any = PLAIN) -> bytes:
    data: bytes = key.private_bytes(serialization.Encoding.PEM, form, encryption)
    return data


def _der(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def _refused(kind: str, pem: str | bytes, password: bytes | None = None) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        identity_from_pem(pem, password=password)
    assert caught.value.kind == kind
    return caught.value


def _version_2(seed: bytes, public_key: bytes, *, tag: bytes = b"\xa1\x23\x03\x21\x00") -> bytes:
    body = b"\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20" + seed + tag + public_key
    encoded = base64.encodebytes(b"\x30" + bytes([len(body)]) + body)
    return b"-----BEGIN PRIVATE KEY-----\n" + encoded + b"-----END PRIVATE KEY-----\n"


# -- keys ------------------------------------------------------------------------------------------------------------


def test_the_ed25519_vector() -> None:
    identity = identity_from_pem(_pem(ZERO_SEED))
    der = "302a300506032b65700321003b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    assert identity.public_key == bytes.fromhex(der)
    assert str(identity.sender) == ZERO_PRINCIPAL
    assert identity.sign(IC_REQUEST + REQUEST_ID).hex() == (
        "ef262d91e75a83516250b434c31cbae20e7ab64bf8cb17355725a3de14c2bbb9"
        "29a7f76ae1585ff16d2cdb29efdae55fcb400491113b456b0f3f89b302363a0e"
    )
    assert isinstance(identity, Identity)


@pytest.mark.parametrize(
    ("key", "form", "principal"),
    [
        (SECP256K1_ONE, PKCS8, SECP256K1_PRINCIPAL),
        (SECP256K1_ONE, SEC1, SECP256K1_PRINCIPAL),
        (P256_ONE, PKCS8, P256_PRINCIPAL),
        (P256_ONE, SEC1, P256_PRINCIPAL),
    ],
    ids=["secp256k1-pkcs8", "secp256k1-sec1", "p256-pkcs8", "p256-sec1"],
)
def test_ecdsa_keys_sign_with_two_plain_numbers(
    key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat, principal: str
) -> None:
    pem = _pem(key, form)
    identity = identity_from_pem(EC_PARAMETERS + pem if form is SEC1 else pem.decode())
    assert str(identity.sender) == principal
    assert identity.public_key == _der(key)
    for number in range(20):  # the numbers of a signature may be short
        message = bytes([number])
        signature = identity.sign(message)
        assert len(signature) == 64
        both = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
        key.public_key().verify(both, message, ec.ECDSA(hashes.SHA256()))


def test_the_secp256k1_key_has_the_form_of_the_reference() -> None:
    identity = identity_from_pem(_pem(SECP256K1_ONE))
    assert identity.public_key is not None
    assert identity.public_key.hex() == (
        "3056301006072a8648ce3d020106052b8104000a034200"
        "0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
    )


@pytest.mark.parametrize("tag", [b"\xa1\x23\x03\x21\x00", b"\x81\x21\x00"])
def test_the_old_form_with_the_public_key_is_read(tag: bytes) -> None:
    public_key = ZERO_SEED.public_key().public_bytes_raw()
    assert str(identity_from_pem(_version_2(bytes(32), public_key, tag=tag)).sender) == ZERO_PRINCIPAL
    _refused("bad_pem", _version_2(bytes(31) + b"\x01", public_key, tag=tag))


def test_an_encrypted_key_needs_its_password() -> None:
    pem = _pem(ZERO_SEED, encryption=serialization.BestAvailableEncryption(b"open sesame"))
    assert str(identity_from_pem(pem, password=b"open sesame").sender) == ZERO_PRINCIPAL
    assert "is encrypted" in _refused("pem_password", pem).message
    assert "sesame" not in str(_refused("pem_password", pem, b"wrong sesame"))
    assert "not encrypted" in _refused("pem_password", _pem(ZERO_SEED), b"open sesame").message


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "no pem",
        _pem(ZERO_SEED) * 2,
        _pem(ZERO_SEED)[:-20],
        EC_PARAMETERS,
        b"-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        _pem(ZERO_SEED) + b" " * 100_000,
        "\ud800",
    ],
)
def test_what_is_not_one_key_is_refused(pem: str | bytes) -> None:
    assert _refused("bad_pem", pem).hint


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - small, and refused
        x25519.X25519PrivateKey.generate(),
    ],
    ids=["secp384r1", "rsa", "x25519"],
)
def test_keys_of_other_types_are_refused(key: Any) -> None:
    assert "secp256k1" in _refused("key_type", _pem(key)).hint


@given(st.binary(max_size=100) | st.text(max_size=50))
def test_any_text_is_a_key_or_refused(junk: bytes | str) -> None:
    data = junk.encode("utf-8", "replace") if isinstance(junk, str) else junk
    for pem in (junk, b"-----BEGIN EC PRIVATE KEY-----\n" + base64.encodebytes(data) + b"-----END EC PRIVATE KEY-----"):
        with pytest.raises(ConfigurationError):
            identity_from_pem(pem)


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_key_file_is_read_and_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "backup.pem"
    path.write_bytes(_pem(ZERO_SEED))
    assert str(identity_from_pem_file(path).sender) == ZERO_PRINCIPAL
    path.write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"backup\.pem") as caught:
        identity_from_pem_file(str(path))
    assert caught.value.kind == "bad_pem"
    with pytest.raises(BackupError, match=r"absent\.pem"):
        identity_from_pem_file(tmp_path / "absent.pem")
    with pytest.raises(BackupError, match=r"absent\.pem"):
        key_file_findings(tmp_path / "absent.pem")


def test_a_key_file_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pem")
    for path in (tmp_path, tmp_path / "pipe.pem"):
        with pytest.raises(ConfigurationError, match="regular"):
            identity_from_pem_file(path)


@pytest.mark.parametrize(
    ("mode", "who"), [(0o600, ""), (0o400, ""), (0o640, "its group"), (0o604, "everybody"), (0o620, "its group")]
)
def test_a_key_file_that_others_can_open_is_told(tmp_path: Path, mode: int, who: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(_pem(ZERO_SEED))
    path.chmod(mode)
    findings = key_file_findings(path)
    assert [finding.code for finding in findings] == (["key_file_open"] if who else [])
    assert not who or who in findings[0].message


@pytest.mark.parametrize("legacy", [False, True])
def test_a_key_without_a_password_in_a_build_environment_is_told(tmp_path: Path, legacy: bool) -> None:  # noqa: FBT001
    plain, sealed = tmp_path / "plain.pem", tmp_path / "sealed.pem"
    form = serialization.PrivateFormat.TraditionalOpenSSL if legacy else serialization.PrivateFormat.PKCS8
    key = ec.derive_private_key(7, ec.SECP256K1())
    for path, encryption in (
        (plain, serialization.NoEncryption()),
        (sealed, serialization.BestAvailableEncryption(b"secret")),
    ):
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
        path.chmod(0o600)
    assert [finding.code for finding in key_file_findings(plain, in_ci=True)] == ["key_in_ci"]
    assert key_file_findings(plain) == key_file_findings(sealed, in_ci=True) == ()
    plain.chmod(0o644)
    assert [finding.code for finding in key_file_findings(plain, in_ci=True)] == ["key_file_open", "key_in_ci"]


# -- the anonymous user ----------------------------------------------------------------------------------------------


def test_the_anonymous_user_signs_nothing() -> None:
    identity = AnonymousIdentity()
    assert isinstance(identity, Identity)
    assert (identity.sender, identity.public_key, identity.delegations) == (ANONYMOUS, None, ())
    assert repr(identity) == "AnonymousIdentity()"
    with pytest.raises(ConfigurationError):
        identity.sign(b"message")


# -- delegations -----------------------------------------------------------------------------------------------------


def _chain(
    *keys: Key, expiry: int = EXPIRY, targets: list[Principal] | None = None, permissions: str | None = None
) -> dict[str, Any]:
    """Return the JSON value of a chain through *keys*."""
    links = []
    for signer, key in itertools.pairwise(keys):
        fields: dict[str, Any] = {"pubkey": _der(key), "expiration": expiry}
        shown: dict[str, Any] = {"pubkey": _der(key).hex(), "expiration": f"{expiry:x}"}
        if targets is not None:
            fields["targets"] = [target.raw for target in targets]
            shown["targets"] = [target.raw.hex() for target in targets]
        if permissions is not None:
            fields["permissions"] = shown["permissions"] = permissions
        message = IC_REQUEST_AUTH_DELEGATION + content_hash(fields)
        links.append({"delegation": shown, "signature": identity_from_pem(_pem(signer)).sign(message).hex()})
    return {"delegations": links, "publicKey": _der(keys[0]).hex()}


MIDDLE = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)


@pytest.mark.parametrize(
    ("targets", "digest"),
    [
        (None, "7a24682f06224f8e50e05cac3fa5d52b42d3297c9ac7855f3a537db512d35462"),
        ((CANISTER,), "9d1a3f26a7d95acb9721c3fec92732ed2a9dc884b20c86b484bcecf977857791"),
    ],
)
def test_the_delegation_hashes_of_the_reference(targets: tuple[Principal, ...] | None, digest: str) -> None:
    link = SignedDelegation(public_key=_der(MIDDLE), expires_at_ns=EXPIRY, targets=targets, signature=b"")
    assert content_hash(link.fields()).hex() == digest


def test_a_delegate_signs_for_who_delegated() -> None:
    chain = DelegationChain.from_json(json.dumps(_chain(ZERO_SEED, MIDDLE, P256_ONE, targets=[CANISTER])))
    identity = DelegatedIdentity(identity_from_pem(_pem(P256_ONE)), chain)
    assert isinstance(identity, Identity)
    assert str(identity.sender) == ZERO_PRINCIPAL
    assert identity.public_key == _der(ZERO_SEED)
    assert [link.public_key for link in identity.delegations] == [_der(MIDDLE), _der(P256_ONE)]
    assert len(identity.sign(b"message")) == 64
    assert identity.chain.targets == frozenset({CANISTER})
    assert identity.chain.expires_at_ns == EXPIRY
    ZERO_SEED.public_key().verify(
        identity.delegations[0].signature,
        IC_REQUEST_AUTH_DELEGATION + content_hash(identity.delegations[0].fields()),
    )


def test_a_delegate_does_not_delegate_on() -> None:
    inner = DelegatedIdentity(
        identity_from_pem(_pem(P256_ONE)), DelegationChain.from_json(json.dumps(_chain(MIDDLE, P256_ONE)))
    )
    with pytest.raises(ConfigurationError) as caught:
        DelegatedIdentity(inner, DelegationChain.from_json(json.dumps(_chain(ZERO_SEED, MIDDLE))))
    assert caught.value.kind == "delegation_key"


def test_a_chain_has_twenty_links_at_most() -> None:
    links = [SignedDelegation(public_key=bytes([n]), expires_at_ns=EXPIRY, signature=b"") for n in range(21)]
    DelegationChain(public_key=b"", delegations=tuple(links[:20]))
    with pytest.raises(ConfigurationError) as caught:
        DelegationChain(public_key=b"", delegations=tuple(links))
    assert caught.value.kind == "bad_delegation"


def test_a_delegation_for_another_key_is_refused() -> None:
    chain = DelegationChain.from_json(json.dumps(_chain(ZERO_SEED, MIDDLE)))
    with pytest.raises(ConfigurationError) as caught:
        DelegatedIdentity(identity_from_pem(_pem(P256_ONE)), chain)
    assert caught.value.kind == "delegation_key"


def test_targets_of_all_links_count() -> None:
    other = Principal(bytes.fromhex("00000000000000020101"))
    link = SignedDelegation(public_key=b"a", expires_at_ns=9, targets=(CANISTER, other), signature=b"")
    narrow = SignedDelegation(public_key=b"b", expires_at_ns=5, targets=(other,), signature=b"")
    free = SignedDelegation(public_key=b"c", expires_at_ns=7, signature=b"")
    chain = DelegationChain(public_key=b"", delegations=(link, narrow, free))
    assert chain.targets == frozenset({other})
    assert chain.expires_at_ns == 5
    assert DelegationChain(public_key=b"", delegations=(free,)).targets is None
    chain.check_at(4, canister_id=other)
    for now_ns, canister_id, kind in ((5, other, "delegation_expired"), (4, CANISTER, "delegation_target")):
        with pytest.raises(ConfigurationError) as caught:
            chain.check_at(now_ns, canister_id=canister_id)
        assert caught.value.kind == kind
    with pytest.raises(ConfigurationError, match="aaaaa-aa"):
        chain.check_at(4, canister_id=MANAGEMENT_CANISTER)
    check_delegations((), now_ns=1 << 64)


def test_a_delegation_for_queries_does_not_call() -> None:
    chain = DelegationChain.from_json(json.dumps(_chain(ZERO_SEED, MIDDLE, permissions="queries")))
    chain.check_at(1, query=True)
    with pytest.raises(ConfigurationError) as caught:
        chain.check_at(1)
    assert caught.value.kind == "delegation_permissions"


def _changed(**changes: Any) -> dict[str, Any]:
    value = _chain(ZERO_SEED, MIDDLE)
    value["delegations"][0]["delegation"].update(changes)
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"delegations": [], "publicKey": "00"},
        {"delegations": 5, "publicKey": "00"},
        {"delegations": [{}], "publicKey": "00"},
        {**_chain(ZERO_SEED, MIDDLE), "publicKey": "xyz"},
        {**_chain(ZERO_SEED, MIDDLE), "publicKey": None},
        _chain(ZERO_SEED, MIDDLE, ZERO_SEED),
        _changed(expiration="soon"),
        _changed(expiration=-1),
        _changed(expiration="1" * 17),
        _changed(pubkey=5),
        _changed(targets=["00" * 30]),
        _changed(targets=["rrkah-fqaaa"]),
        _changed(targets=["00"] * 1_001),
        _changed(permissions="everything"),
    ],
)
def test_what_is_no_delegation_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DelegationChain.from_json(json.dumps(value))
    assert caught.value.kind == "bad_delegation"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, " " * (2 << 20), b"\xff"])
def test_what_is_no_json_is_no_delegation(text: str | bytes) -> None:
    with pytest.raises(ConfigurationError):
        DelegationChain.from_json(text)


def test_targets_may_be_in_text_form() -> None:
    chain = DelegationChain.from_json(json.dumps(_changed(targets=[str(CANISTER)], expiration=EXPIRY)))
    assert chain.targets == frozenset({CANISTER})
    assert chain.expires_at_ns == EXPIRY


# -- identities of other libraries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [IcPyIdentity, IcpPyCoreIdentity])
@pytest.mark.parametrize("scheme", ["ed25519", "secp256k1"])
def test_identities_of_other_libraries_sign(library: Any, scheme: str) -> None:
    theirs = library(privkey=SECRET_SEED.hex(), type=scheme)
    identity = identity_of(theirs)
    assert isinstance(identity, Identity)
    assert str(identity.sender) == theirs.sender().to_str()
    assert identity.public_key == theirs.der_pubkey
    assert theirs.verify(b"message", identity.sign(b"message"))
    ours = identity_from_pem(theirs.to_pem())
    assert ours.sender == identity.sender
    assert theirs.verify(b"message", ours.sign(b"message"))


@pytest.mark.parametrize("library", [IcPyIdentity, IcpPyCoreIdentity])
def test_anonymous_identities_of_other_libraries(library: Any) -> None:
    assert isinstance(identity_of(library(anonymous=True)), AnonymousIdentity)


@pytest.mark.parametrize(
    ("library", "inner"), [(IcPyDelegateIdentity, IcPyIdentity), (IcpPyCoreDelegateIdentity, IcpPyCoreIdentity)]
)
def test_delegates_of_other_libraries_sign(library: Any, inner: Any) -> None:
    chain = _chain(ZERO_SEED, MIDDLE)
    if library is IcpPyCoreDelegateIdentity:
        chain["delegations"][0]["delegation"]["expiration"] = f"0x{EXPIRY:x}"
    theirs = library(inner(privkey=("01" * 32)), chain)
    identity = identity_of(theirs)
    assert str(identity.sender) == ZERO_PRINCIPAL
    assert identity.delegations == DelegationChain.from_json(json.dumps(_chain(ZERO_SEED, MIDDLE))).delegations
    MIDDLE.public_key().verify(identity.sign(b"message"), b"message")
    envelope = signed_request({"sender": identity.sender.raw}, identity).envelope
    assert b"sender_delegation" in envelope


def test_our_own_identities_are_taken_as_they_are() -> None:
    identity = identity_from_pem(_pem(ZERO_SEED))
    assert identity_of(identity) is identity
    anonymous = AnonymousIdentity()
    assert identity_of(anonymous) is anonymous


def test_what_a_caller_wrote_after_the_protocol_is_taken() -> None:
    class Hardware:
        sender = CANISTER
        public_key = b"key"
        delegations = ()

        def sign(self, message: bytes, /) -> bytes:
            return message

    device = Hardware()
    assert identity_of(device) is device


class Shown:
    """Prints a key, as careless objects do."""

    def __repr__(self) -> str:
        return SECRET_TEXTS[0]


@pytest.mark.parametrize("value", [None, "name", 5, object(), Shown()])
def test_what_is_no_identity_is_refused_without_being_shown(value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        identity_of(value)
    assert caught.value.kind == "bad_identity"
    assert SECRET_TEXTS[0] not in "".join(traceback.format_exception(caught.value))


def test_delegations_of_another_form_are_refused() -> None:
    theirs = IcPyDelegateIdentity(IcPyIdentity(privkey="01" * 32), _chain(ZERO_SEED, MIDDLE))
    theirs._delegations = [{"delegation": 5}]
    with pytest.raises(ConfigurationError) as caught:
        identity_of(theirs)
    assert caught.value.kind == "bad_delegation"


# -- no key in any text ----------------------------------------------------------------------------------------------


def _secret_identities() -> list[Any]:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(SECRET_SEED)
    ours = identity_from_pem(_pem(key))
    chain = DelegationChain.from_json(json.dumps(_chain(ZERO_SEED, key)))
    curve = identity_from_pem(_pem(ec.derive_private_key(int.from_bytes(SECRET_SEED, "big"), ec.SECP256K1()), SEC1))
    foreign = [identity_of(library(privkey=SECRET_SEED.hex())) for library in (IcPyIdentity, IcpPyCoreIdentity)]
    return [ours, curve, DelegatedIdentity(ours, chain), *foreign]


@pytest.mark.parametrize("identity", _secret_identities(), ids=lambda identity: type(identity).__name__)
def test_a_key_is_in_no_text_and_no_pickle(identity: Any, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").warning("using %s, %r", identity, {"identity": identity})
    texts = [repr(identity), str(identity), f"{identity}", repr([identity]), caplog.text]
    assert not any(secret in text for secret in SECRET_TEXTS for text in texts)
    assert str(identity.sender) in repr(identity)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(ConfigurationError) as caught:
            pickle.dumps(identity, protocol)
        assert caught.value.kind == "secret_pickled"
    assert copy.copy(identity) is identity
    assert copy.deepcopy(identity) is identity
    assert not hasattr(identity, "__dict__")


def test_the_identity_of_ic_py_shows_its_key_and_ours_hides_it() -> None:
    theirs = IcPyIdentity(privkey=SECRET_SEED.hex())
    assert SECRET_TEXTS[0] in repr(theirs)
    assert SECRET_TEXTS[0] not in repr(identity_of(theirs))


def test_a_failing_identity_does_not_tell_its_key() -> None:
    class Failing:
        der_pubkey = b"key"

        def sign(self, _message: bytes) -> bytes:
            raise RuntimeError(SECRET_TEXTS[0])

    with pytest.raises(ConfigurationError) as caught:
        identity_of(Failing()).sign(b"message")
    assert "RuntimeError" in caught.value.message
    assert SECRET_TEXTS[0] not in "".join(traceback.format_exception(caught.value))


def test_a_damaged_key_is_not_told() -> None:
    pem = _version_2(SECRET_SEED, bytes(32))
    error = _refused("bad_pem", pem)
    shown = "".join(traceback.format_exception(error)) + repr(error.context)
    assert not any(secret in shown for secret in SECRET_TEXTS)
    assert pem.splitlines()[1].decode() not in shown


@pytest.mark.parametrize("password", [None, b"a password"], ids=["plain", "encrypted"])
def test_a_new_key_can_be_kept_and_read_again(password: bytes | None) -> None:
    identity = KeyIdentity.generate()
    assert identity.sender != KeyIdentity.generate().sender
    again = identity_from_pem(identity.to_pem(password=password), password=password)
    assert (again.sender, again.sign(b"message")) == (identity.sender, identity.sign(b"message"))
