"""The planner: does a model fit a slice, and what is the least a step can take.

Everything comes from the real TPU compiler, which needs no TPU, and from shapes; no
weight is read. `python -m r1jax.plan --help` lists what can be asked.
"""
