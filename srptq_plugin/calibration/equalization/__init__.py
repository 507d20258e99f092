"""Channel equalization: factors between layers that keep the float network and lower the noise of rounding."""
