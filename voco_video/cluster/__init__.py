"""Many videos compressed by many workers: on one machine, on a Ray cluster, or in shares."""
