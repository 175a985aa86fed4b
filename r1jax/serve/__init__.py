"""The model behind an OpenAI-compatible HTTP interface: `python -m r1jax.serve`."""

from r1jax.command import require_to_run

require_to_run("serve", "prometheus_client", "pydantic", "starlette", "uvicorn")
