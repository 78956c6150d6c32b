"""Damage by seed: mutated clips, cache entries and checkpoint folders, and what the package makes of each."""
