"""The run folder: written atomically, verified and read back."""
