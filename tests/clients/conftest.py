"""Scripts for environments of their own, which no test imports."""

collect_ignore = ["aimet_encodings.py", "aimet_placement.py"]
