"""The folder in which everything of a run lands: made whole, and read back."""
