"""Scripts that run in other environments and that tests do not import."""

collect_ignore = ["aimet_encodings.py", "aimet_placement.py"]
