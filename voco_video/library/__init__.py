"""Many videos: manifests that list them, and sources that name them."""
