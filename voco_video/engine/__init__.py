"""Answers from an engine outside this process: the decoder as a plain text model, and a client of vLLM servers."""
