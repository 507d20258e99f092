"""Helpers that any package may use: distributed processes, atomic files, timing, progress."""
