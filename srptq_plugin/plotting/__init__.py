"""Pictures of what was measured; matplotlib draws them, where it is installed."""
