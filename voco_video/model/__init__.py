"""Compress and answer, on tensors: the language model writes frames into VoCo tokens, and answers from them."""
