"""Tokens in motion: scheduling, the compiled step, sampling. Knows no words."""
