"""Compressed frames that answer questions: which of them a question sees, what is found, what is said."""
