"""The package in the place of the real runner's."""
