"""Which canisters the root subnet answers for: as itself certifies, for some minutes, and nobody else."""

from __future__ import annotations

import pytest
from ic_certificates import CANISTER, EVERYTHING, ROOT, certificate, delegation, ranges

from knowtation_backup.errors import CertificateError
from knowtation_backup.ic.certificate import Certificate
from knowtation_backup.ic.root_subnet import RootSubnet
from knowtation_backup.model.ids import Principal

CANISTER_ID = Principal(CANISTER)
OTHER_ID = Principal(b"\x00" * 7 + b"\x07\x01\x01")
STATE = {b"subnet": {ROOT.principal: {b"canister_ranges": ranges((CANISTER, CANISTER))}}}
ROOT_SAYS = Certificate.parse(certificate(STATE, key=ROOT))
ANOTHER_SAYS = Certificate.parse(certificate(STATE, delegation=delegation(flat=[EVERYTHING])))
NOTHING_SAID = Certificate.parse(certificate({b"x": b"y"}, key=ROOT))


def _root(now: list[float]) -> RootSubnet:
    return RootSubnet(ROOT.der, monotonic=lambda: now[0], keep_seconds=300)


def test_the_ranges_are_read_once_for_some_minutes() -> None:
    now, read = [0.0], list[Certificate]()

    def look() -> Certificate:
        read.append(ROOT_SAYS)
        return ROOT_SAYS

    root = _root(now)
    for seconds, looks in ((0.0, 1), (299.0, 1), (300.0, 2), (400.0, 2)):
        now[0] = seconds
        root.require(CANISTER_ID, look)
        assert len(read) == looks


@pytest.mark.parametrize("said", [ANOTHER_SAYS, NOTHING_SAID])
def test_only_the_root_subnet_says_which_canisters_are_its_own(said: Certificate) -> None:
    root = _root([0.0])
    with pytest.raises(CertificateError) as caught:
        root.require(CANISTER_ID, lambda: said)
    assert caught.value.kind == "certificate_range"


def test_canisters_beyond_the_ranges_are_looked_up_and_refused() -> None:
    root = _root([0.0])
    root.require(CANISTER_ID, lambda: ROOT_SAYS)
    with pytest.raises(CertificateError) as caught:
        root.require(OTHER_ID, lambda: ROOT_SAYS)
    assert caught.value.kind == "certificate_range"
    assert caught.value.context["canister_id"] == str(OTHER_ID)
