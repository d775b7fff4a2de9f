"""Reproducible container images and environments for PyTorch."""
