"""Environments without containers: made from a lock, tried, compared with it, mended."""
