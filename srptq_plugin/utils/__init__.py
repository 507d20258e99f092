"""What any package may use: several processes, atomic files, timing, progress."""
