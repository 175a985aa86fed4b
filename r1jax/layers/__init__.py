"""Linen modules that hold parameters, and the pure functions they call."""
