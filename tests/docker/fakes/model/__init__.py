"""The package that stands where the real runner's stands."""
