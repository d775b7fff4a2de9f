"""Images in registries: names, credentials, blobs there and back (distribution-spec 1.1)."""
