"""Tuning a prepared graph against its float self: PaC, and what it stands on."""
