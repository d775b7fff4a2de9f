"""The tasks of `./kiln`: flags in, one call into the package, results out."""
