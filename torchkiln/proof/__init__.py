"""Documents of proof for an image: what it holds (SBOM), what it was made from (provenance)."""
