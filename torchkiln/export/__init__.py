"""Images in the forms that clusters and engines take, written from the store."""
