"""Checkpoints: what a fit saves of itself, and how it goes on."""
