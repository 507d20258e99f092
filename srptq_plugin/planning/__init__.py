"""Plans of quantization, and the graphs that realize them."""
