"""Network graphs without any recipe: operations, stages, export, and the operations that a target fuses."""
