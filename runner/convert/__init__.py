"""Conversions from the forms models are published in to the form an engine loads."""
