"""The only owner of lifecycle state, threads and leases."""

from controller.supervisor.aftermath import Aftermath
from controller.supervisor.following import Follower
from controller.supervisor.hangs import HangWatch
from controller.supervisor.model import CancelToken, Lease, State
from controller.supervisor.monitor import Monitor
from controller.supervisor.plan import Plan
from controller.supervisor.pulling import Pull
from controller.supervisor.starting import Backend
from controller.supervisor.supervisor import Supervisor
from controller.supervisor.view import ModelView

__all__ = [
    "Aftermath",
    "Backend",
    "CancelToken",
    "Follower",
    "HangWatch",
    "Lease",
    "ModelView",
    "Monitor",
    "Plan",
    "Pull",
    "State",
    "Supervisor",
]
