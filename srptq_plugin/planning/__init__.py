"""What is quantized, and the graph that has it."""
