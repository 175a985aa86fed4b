"""Training: fine-tuning on answers, and what every way of learning shares."""

from r1jax.command import restart_in_large_pages

restart_in_large_pages()
