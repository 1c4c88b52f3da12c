"""Backward-compatible training with prototype perturbation: a new encoder's queries find what the old one stored."""
