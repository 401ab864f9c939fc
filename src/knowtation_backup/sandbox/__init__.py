"""
A small Internet Computer in one process, for quickstarts, tests, drills and benchmarks (extra ``sandbox``).

A request travels down this list, its answer up again::

    protocol     envelopes, signatures, certificates, HTTP interface and gateway, sockets
    replica      call contexts, queues, timers, ingress history, queries
    management   the management canister: settings, code, life cycle, snapshots
    execution    one message at a time on real Wasm, committed or rolled back
    state        what is remembered of a canister; `storage` keeps it in a directory

`network` puts them together, `process` runs a network in a child process, `faults` breaks things on demand, and `hub`
holds canisters to practise on. It imports nothing of the library but its errors and the checks of option
values.
"""

from .clock import SandboxClock
from .faults import (
    Answer,
    AnswerLater,
    Delay,
    FaultPlan,
    ResetAfterExecution,
    ResetBeforeExecution,
    Rule,
    StaleCertificate,
    Tamper,
    Truncate,
)
from .management.context import ManagementOptions
from .messages import Rejected
from .network import SandboxNetwork
from .process import SandboxProcess
from .protocol.gateway import GatewayOptions
from .protocol.server import SandboxServer
from .protocol.transport import LocalhostTransport, SandboxTransport
from .request_log import RequestLog, SeenRequest

__all__ = [
    "Answer",
    "AnswerLater",
    "Delay",
    "FaultPlan",
    "GatewayOptions",
    "LocalhostTransport",
    "ManagementOptions",
    "Rejected",
    "RequestLog",
    "ResetAfterExecution",
    "ResetBeforeExecution",
    "Rule",
    "SandboxClock",
    "SandboxNetwork",
    "SandboxProcess",
    "SandboxServer",
    "SandboxTransport",
    "SeenRequest",
    "StaleCertificate",
    "Tamper",
    "Truncate",
]
