"""Tokens to the devices that hold their experts, and back."""

from r1jax.pallas.expert_dispatch.api import combine, dispatch, make_plan, most_rows
from r1jax.pallas.expert_dispatch.plan import Axis, Plan

__all__ = ["Axis", "Plan", "combine", "dispatch", "make_plan", "most_rows"]
