"""Presets: one file a model family, holding sizes and nothing else."""
