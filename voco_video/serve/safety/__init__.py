"""What a server does not trust: addresses, paths, names, files and headers that clients give."""
