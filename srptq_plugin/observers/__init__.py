"""Observers, one file each: batches of one tensor become its bounds."""
