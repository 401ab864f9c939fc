"""A small Internet Computer in one process, for quickstarts, tests, drills and benchmarks (extra ``sandbox``)."""

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
from .gateway import GatewayOptions
from .management_context import ManagementOptions
from .messages import Rejected
from .network import SandboxNetwork
from .process import SandboxProcess
from .request_log import RequestLog, SeenRequest
from .server import SandboxServer
from .transport import LocalhostTransport, SandboxTransport

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
