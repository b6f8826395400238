"""Measurements of a running installation."""
