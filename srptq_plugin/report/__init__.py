"""One HTML file by which a person judges a quantized network, or several of them."""
