"""Rotation of linear streams: other channels for the same features, which rounding disturbs less."""
