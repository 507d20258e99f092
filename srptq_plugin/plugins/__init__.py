"""What plugins hand in, the hooks, and the look-ups."""
