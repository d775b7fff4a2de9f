"""Environments of conda packages: what a variant is made from, its locks, and their installation.

py-rattler solves and installs. It is imported in `torchkiln.conda.rattler` alone, when it is used:
`bootstrap.require_conda` installs it, and nothing else of Torchkiln needs it.
"""
