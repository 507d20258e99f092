"""Costs of a network under a plan of bits: multiplications, bytes, and memory for feature maps."""
