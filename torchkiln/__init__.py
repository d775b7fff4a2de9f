"""Reproducible container images and environments for PyTorch."""

__version__ = "0.1.0"
