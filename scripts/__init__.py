"""Programs that set up and run a checkout."""
