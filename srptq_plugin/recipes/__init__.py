"""What a user asks for: the schema, the files, the values, and all of it held against what is installed."""

DEFAULT_RECIPE = "openvino-w8a8"
"""The recipe of a run that names none."""
