"""The only owner of lifecycle state, threads and leases."""

from controller.supervisor.backend import Backend
from controller.supervisor.leases import CancelToken, Lease
from controller.supervisor.memory.plan import Plan
from controller.supervisor.pull import Pull
from controller.supervisor.states import State
from controller.supervisor.supervisor import Supervisor
from controller.supervisor.view import ModelView
from controller.supervisor.watching.dead_model import DeadModelCheck
from controller.supervisor.watching.docker_events import DockerEventFollower
from controller.supervisor.watching.hangs import HangWatch
from controller.supervisor.watching.monitor import Monitor

__all__ = [
    "Backend",
    "CancelToken",
    "DeadModelCheck",
    "DockerEventFollower",
    "HangWatch",
    "Lease",
    "ModelView",
    "Monitor",
    "Plan",
    "Pull",
    "State",
    "Supervisor",
]
