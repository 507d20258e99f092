"""What a network and a plan of bits cost: products, bytes, feature maps at once."""
