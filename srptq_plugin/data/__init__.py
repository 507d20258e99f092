"""Images, how they are resized, and how they are compared."""
