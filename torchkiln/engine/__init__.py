"""Engines: ways from locks to an image."""
