"""What samples say about a model: pass@1, cons@k, pass@k, and how sure that is.

All estimates are means over problems, and it is problems that are drawn from a larger
world; so standard errors and intervals are over problems, not over samples.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959963984540054  # of a 95 % interval of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A mean over problems, its standard error, and a 95 % interval."""

    mean: float
    stderr: float
    low: float
    high: float


def over_problems(scores: Sequence[float]) -> Estimate:
    """Estimates the mean of scores in 0..1, one a problem.

    The interval is Wilson's for as many draws as there are problems. A problem's score
    may be a mean of several samples; its variance is then at most that of one draw of
    the same mean, so that the interval errs on the wide side, and it keeps a width
    where all problems are solved, or none.
    """
    n = len(scores)
    mean = math.fsum(scores) / n
    spread = math.fsum((score - mean) ** 2 for score in scores)
    stderr = math.sqrt(spread / (n - 1) / n) if n > 1 else float("nan")
    shrink = 1 + _Z**2 / n
    middle = (mean + _Z**2 / (2 * n)) / shrink
    half = _Z * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2)) / shrink
    # Its ends meet the mean where none or all are right; rounding may not pass it.
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return Estimate(mean, stderr, min(low, mean), max(high, mean))


def pass_at_1(correct: Sequence[bool]) -> float:
    """Returns the share of one problem's samples that are right (R1's pass@1)."""
    return sum(correct) / len(correct)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Returns the chance that one of `k` samples is right, without bias.

    Of `samples` drawn samples `correct` were right; all ways to choose `k` of them
    count equally (arXiv 2107.03374, section 2.1).
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def consensus(votes: Sequence[int | None], correct: Sequence[bool]) -> float:
    """Returns whether the majority of one problem's samples is right (cons@k).

    Args:
      votes: For each sample the number of its answer; equal answers have the same one,
        and None does not vote.
      correct: Whether each sample is right.

    Returns:
      0 or 1; among answers of equally many votes, the share of the right ones, which
      is the expectation of choosing one at random.
    """
    count = Counter(vote for vote in votes if vote is not None)
    if not count:
        return 0.0
    most = max(count.values())
    first = {vote: at for at, vote in reversed(list(enumerate(votes)))}
    winners = [vote for vote, votes_for in count.items() if votes_for == most]
    return sum(correct[first[vote]] for vote in winners) / len(winners)
