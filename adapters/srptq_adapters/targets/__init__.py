"""The targets, one file each."""
