"""A histogram that costs little to fill: one thread, one bisection."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.core import HistogramMetricFamily


class Histogram:
    """Counts of observations by bucket, to be filled by one thread.

    prometheus_client's own takes a lock and a walk over the buckets for each, at every
    token of every stream.
    """

    def __init__(self, bounds: Iterable[float]) -> None:
        """Takes the buckets' upper bounds, in order."""
        self.bounds: Sequence[float] = tuple(map(float, bounds))
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts a value, perhaps several times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def add_to(
        self, family: HistogramMetricFamily, labels: Sequence[str]
    ) -> HistogramMetricFamily:
        """Adds the buckets to what Prometheus reads, each with those below it."""
        total, buckets = 0, []
        for bound, count in zip([*self.bounds, "+Inf"], self.counts, strict=True):
            total += count
            buckets.append((str(bound), total))
        family.add_metric(labels, buckets, sum_value=self.sum)
        return family
