"""The model behind an OpenAI-compatible HTTP interface: `python -m r1jax.serve`."""
