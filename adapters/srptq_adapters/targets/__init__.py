"""The targets, a file each."""
