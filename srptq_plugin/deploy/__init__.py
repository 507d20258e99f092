"""The table of integers, and what targets write from it."""
