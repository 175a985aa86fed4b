"""The project's own arithmetic: problems with thoughts, and small conversations.

What r1-nano learns from and is measured by. This room knows no arrays.
"""

from r1jax.problems.chats import chats
from r1jax.problems.drawing import draw
from r1jax.problems.problem import Countdown, Problem, as_messages
from r1jax.problems.tasks import TASKS

__all__ = ["TASKS", "Countdown", "Problem", "as_messages", "chats", "draw"]
