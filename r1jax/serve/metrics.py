"""What the server counts and times, for Prometheus.

Every metric is shown twice, as `r1jax:...` and under the name that vLLM gives it, which
the dashboards and load generators of the field read.
"""

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from r1jax.engine.loop import Engine

_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKENS = tuple(float(2**power) for power in range(18))
_LABELS = ("model_name",)
_OUR_NAME = re.compile(rb"^((?:# (?:HELP|TYPE) )?)r1jax:", re.MULTILINE)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, engine: "Engine", model: str) -> None:
        """Makes the registry; the engine is asked for its numbers at each scrape."""
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine, model))
        self._model = model
        self._finished = Counter(
            "r1jax:request_success",
            "Sequences ended, by reason.",
            (*_LABELS, "finished_reason"),
            registry=self._registry,
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "Arrival to first token.", _SECONDS
        )
        self.between_tokens = self._histogram(
            "inter_token_latency_seconds", "One token to the next.", _SECONDS
        )
        self.per_token = self._histogram(
            "request_time_per_output_token_seconds",
            "Mean time between a sequence's tokens.",
            _SECONDS,
        )
        self.whole = self._histogram(
            "e2e_request_latency_seconds", "Arrival to last token.", _SECONDS
        )
        self.prompt_tokens = self._histogram(
            "request_prompt_tokens", "Tokens of a sequence's prompt.", _TOKENS
        )
        self.generation_tokens = self._histogram(
            "request_generation_tokens", "Tokens of a sequence's answer.", _TOKENS
        )

    def count_finished(self, reason: str) -> None:
        """Counts a sequence that ended by stop, length, abort or error."""
        self._finished.labels(self._model, reason).inc()

    def text(self) -> bytes:
        """Writes all metrics in Prometheus' text format, under both names."""
        ours = generate_latest(self._registry)
        return ours + _OUR_NAME.sub(rb"\1vllm:", ours)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...]
    ) -> Histogram:
        metric = Histogram(
            f"r1jax:{name}",
            meaning,
            _LABELS,
            buckets=buckets,
            registry=self._registry,
        )
        return metric.labels(self._model)


class ChoiceTimer:
    """Watches one sequence from its arrival to its end."""

    def __init__(self, metrics: Metrics, prompt_tokens: int) -> None:
        """Starts the clock."""
        self._metrics = metrics
        self._prompt_tokens = prompt_tokens
        self._start = time.monotonic()
        self._first = self._last = 0.0
        self._tokens = 0

    @property
    def waiting(self) -> bool:
        """Tells whether no token has come yet."""
        return not self._tokens

    def token(self, count: int) -> None:
        """Notes that `count` tokens (none or one) have come."""
        if not count:
            return
        now = time.monotonic()
        if self.waiting:
            self._first = now
            self._metrics.first_token.observe(now - self._start)
        else:
            self._metrics.between_tokens.observe(now - self._last)
        self._tokens += count
        self._last = now

    def finish(self, reason: str) -> None:
        """Notes that the sequence has ended."""
        self._metrics.count_finished(reason)
        self._metrics.whole.observe(time.monotonic() - self._start)
        self._metrics.prompt_tokens.observe(self._prompt_tokens)
        self._metrics.generation_tokens.observe(self._tokens)
        if self._tokens > 1:
            mean = (self._last - self._first) / (self._tokens - 1)
            self._metrics.per_token.observe(mean)


class _EngineCollector(Collector):
    """Reads the engine's own numbers when asked."""

    def __init__(self, engine: "Engine", model: str) -> None:
        self._engine = engine
        self._model = model

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        gauges = {
            "num_requests_running": ("Sequences in the batch.", stats.running),
            "num_requests_waiting": ("Sequences that wait for room.", stats.waiting),
            "kv_cache_usage_perc": (
                "Share of the cache's pages in use, 0 to 1.",
                stats.pages_used / max(stats.pages_total, 1),
            ),
        }
        counters = {
            "num_preemptions": ("Sequences put back to wait.", stats.preemptions),
            "prompt_tokens": ("Prompt tokens processed.", stats.prompt_tokens),
            "generation_tokens": ("Tokens generated.", stats.generation_tokens),
            "spec_decode_num_drafts": ("Times tokens were guessed.", stats.drafts),
            "spec_decode_num_draft_tokens": ("Tokens guessed.", stats.drafted),
            "spec_decode_num_accepted_tokens": ("Guesses right.", stats.accepted),
        }
        for family, metrics in (
            (GaugeMetricFamily, gauges),
            (CounterMetricFamily, counters),
        ):
            for name, (meaning, value) in metrics.items():
                metric = family(f"r1jax:{name}", meaning, labels=_LABELS)
                metric.add_metric([self._model], value)
                yield metric
