"""The arithmetic: grids, rounding, saturation, and the quantizer with two bounds. It knows no graph."""
