"""Reference SR networks, a file each, and how any network and its checkpoint are loaded."""
