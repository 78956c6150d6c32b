"""A model on disk: its folder is read, checked, loaded, described and converted here."""
