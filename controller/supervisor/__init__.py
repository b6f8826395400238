"""The only owner of lifecycle state, threads and leases."""

from controller.supervisor.model import CancelToken, Lease, ModelView, State
from controller.supervisor.monitor import Monitor
from controller.supervisor.pulling import Pull
from controller.supervisor.starting import Backend
from controller.supervisor.supervisor import Supervisor

__all__ = ["Backend", "CancelToken", "Lease", "ModelView", "Monitor", "Pull", "State", "Supervisor"]
