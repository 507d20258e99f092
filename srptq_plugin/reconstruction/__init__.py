"""Reconstruction: tuning of a prepared graph against its float network. PaC, and the methods that it is built from."""
