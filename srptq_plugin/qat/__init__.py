"""Training with quantizers in place, from bounds that were calibrated."""
