"""Orchestrar's control plane: lifecycle of model containers, and the proxy in front of them."""

__version__ = "0.1.0"
