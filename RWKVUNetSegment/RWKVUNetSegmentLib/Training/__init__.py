"""Training runs: data, packages, processes, their state."""
