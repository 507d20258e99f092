"""Recipes: the YAML files that decide a quantization."""
