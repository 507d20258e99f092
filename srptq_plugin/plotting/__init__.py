"""Plots of measurements, drawn with matplotlib if it is installed."""
