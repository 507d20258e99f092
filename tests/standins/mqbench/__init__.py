"""The seams of MQBench that the adapter touches, and no more: for tests where MQBench itself is not installed."""

__version__ = "0.0.6+standin"
