"""
Which canisters the root subnet answers for.

Certificates of all other subnets come with a delegation that names their canisters. The root subnet signs with the
root key itself, so its certificates name none: a boundary node could hand a request to it instead of the right subnet,
and get a genuine certificate that knows nothing of a canister or a call. Therefore the root subnet's own list is read,
certified, before such a certificate is believed.

Source:
    IC interface specification, "Certification"; internet-computer reference, B.4 and B.6.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..errors import CertificateError
from ..model.ids import Principal
from .certificate import Certificate
from .delegations import Ranges, contains, flat_ranges

__all__ = ["RootSubnet"]


class RootSubnet:
    """
    The ranges of the root subnet, read when they are needed. Thread-safe.

    Args:
        root_key: Of the network, in DER form.
        monotonic: Seconds.
        keep_seconds: How long they are used.
    """

    def __init__(self, root_key: bytes, *, monotonic: Callable[[], float], keep_seconds: float) -> None:
        self._id = Principal.self_authenticating(root_key)
        self._monotonic = monotonic
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._ranges: Ranges = ()
        self._until = float("-inf")

    def require(self, canister_id: Principal, read: Callable[[], Certificate]) -> None:
        """
        Return if the root subnet answers for a canister.

        Args:
            canister_id: The canister.
            read: Returns a certificate of the path ``/subnet`` whose signature holds.

        Raises:
            CertificateError: Kind ``certificate_range``: it does not.
        """
        with self._lock:
            known = self._ranges if self._monotonic() < self._until else ()
        if contains(known, canister_id.raw):
            return
        certificate = read()
        ranges = flat_ranges(certificate.tree, self._id) if certificate.delegation is None else None
        if ranges is None or not contains(ranges, canister_id.raw):
            message = f"the root subnet answered for canister {canister_id}, which is not one of its own"
            hint = "the request went to a wrong or misbehaving node; try another address of the network"
            context = {"subnet_id": str(self._id), "canister_id": str(canister_id)}
            raise CertificateError(message, kind="certificate_range", hint=hint, **context)
        with self._lock:
            self._ranges = ranges
            self._until = self._monotonic() + self._keep_seconds
