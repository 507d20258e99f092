"""Channels scaled where they are made and back where they are read, so that rounding moves the image least."""
