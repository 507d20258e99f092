"""The built-in plugins: toolkits and targets, and the names of the core's own observers and models."""
