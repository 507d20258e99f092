"""Reading a network: operations, stages, exporting, what a target computes together. It knows no recipe."""
