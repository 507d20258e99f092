"""Deployment: the quant table, and the files that targets write from it."""
