"""Kernels: arrays in, arrays out.

Each folder holds one: `api` checks its arguments and picks an implementation,
`reference` is the meaning in plain JAX, `kernel` is a platform's fast form, `cases`
names the shapes of the real models, for tests and benchmarks alike. Nothing here knows
of configs, layers or meshes; what varies by chip is in `chips`, and which form runs is
said by a `Backend`, never asked of the process.
"""
