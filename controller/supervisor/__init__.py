"""The only owner of lifecycle state, threads and leases."""

from controller.supervisor.model import CancelToken, Lease, State
from controller.supervisor.monitor import Monitor
from controller.supervisor.plan import Plan
from controller.supervisor.pulling import Pull
from controller.supervisor.starting import Backend
from controller.supervisor.supervisor import Supervisor
from controller.supervisor.view import ModelView

__all__ = ["Backend", "CancelToken", "Lease", "ModelView", "Monitor", "Plan", "Pull", "State", "Supervisor"]
