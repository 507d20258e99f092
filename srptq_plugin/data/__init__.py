"""Images: reading, resizing, comparing."""
