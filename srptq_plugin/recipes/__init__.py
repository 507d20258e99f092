"""Recipes: the YAML files that decide a quantization."""

DEFAULT_RECIPE = "openvino-w8a8"
"""The recipe to use if none is named."""
