"""Files that people bring: paths, settings and weights, read whole or refused with one clear error."""
