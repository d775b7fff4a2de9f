"""The doctor: a table of checks that say why PyTorch does not work here, and what mends it.

It needs nothing but the standard library and torchkiln's own facts, so that it runs inside the
images and in a Python where nothing else can be installed. It never imports torch in its own
process: each check runs in a process of its own, which may crash or hang.
"""
