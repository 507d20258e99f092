"""Observers, one per file: they turn the batches of one tensor into its bounds."""
