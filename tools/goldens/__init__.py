"""The parts of `tools/make_goldens.py`: what models, which tensors, which answers."""
