"""Measures a model as R1's paper does: samples, graders, estimates, a report.

Run with `python -m r1jax.evaluate`; see docs/evaluation.md.
"""
