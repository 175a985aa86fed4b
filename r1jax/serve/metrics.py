"""What the server counts and times, for Prometheus.

Every metric of the model is shown twice, as `r1jax:...` and under the name that vLLM
gives it, which the dashboards and load generators of the field read.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from r1jax.engine.types import EngineStats, Event
from r1jax.serve.histogram import Histogram

if TYPE_CHECKING:
    from r1jax.engine.loop import Engine

# vLLM's buckets, so that its dashboards' quantiles mean the same.
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    *(60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
_STEP_TOKENS = tuple(2**power for power in (0, *range(3, 15)))
_HTTP = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)

_HISTOGRAMS = {
    "time_to_first_token_seconds": ("Arrival to first token.", _FIRST_TOKEN),
    "inter_token_latency_seconds": ("One token to the next.", _BETWEEN),
    "request_time_per_output_token_seconds": (
        "Mean time between a sequence's tokens.",
        _BETWEEN,
    ),
    "e2e_request_latency_seconds": ("Arrival to last token.", _REQUEST),
    "request_queue_time_seconds": ("Arrival to first step.", _REQUEST),
    "request_prefill_time_seconds": ("First step to first token.", _REQUEST),
    "request_decode_time_seconds": ("First token to last.", _REQUEST),
    "request_inference_time_seconds": ("First step to last token.", _REQUEST),
    "request_prompt_tokens": ("Tokens of a sequence's prompt.", _TOKENS),
    "request_generation_tokens": ("Tokens of a sequence's answer.", _TOKENS),
}
_LABELS = ("model_name", "engine")
_OUR_NAME = re.compile(rb"^((?:# (?:HELP|TYPE) )?)r1jax:", re.MULTILINE)


class Metrics(Collector):
    """The metrics of one server; filled and read on one thread.

    Attributes:
      time_of: Histograms by the name of what they count.
    """

    def __init__(self, engine: "Engine", model: str) -> None:
        """Makes the registry; the engine is asked for its numbers at each scrape."""
        self._engine, self._labels = engine, [model, "0"]
        self.time_of = {name: Histogram(b) for name, (_, b) in _HISTOGRAMS.items()}
        self.first_token = self.time_of["time_to_first_token_seconds"]
        self.between_tokens = self.time_of["inter_token_latency_seconds"]
        reasons = ("stop", "length", "abort", "error")
        self._finished = Counter(dict.fromkeys(reasons, 0))
        self._http: Counter[tuple[str, str, str]] = Counter()
        self._http_seconds: dict[str, Histogram] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count_finished(self, reason: str) -> None:
        """Counts a sequence that ended by stop, length, abort or error."""
        self._finished[reason] += 1

    def count_http(self, handler: str, method: str, status: int, took: float) -> None:
        """Counts an HTTP request that was answered after so many seconds."""
        self._http[handler, method, f"{status // 100}xx"] += 1
        seconds = self._http_seconds.setdefault(handler, Histogram(_HTTP))
        seconds.observe(took)

    def text(self) -> bytes:
        """Writes all metrics in Prometheus' text format, the model's under both names.

        Those of HTTP and of the process have the names that they have everywhere.
        """
        ours = generate_latest(self._registry)
        twice = b"".join(
            line for line in ours.splitlines(keepends=True) if _OUR_NAME.match(line)
        )
        return ours + _OUR_NAME.sub(rb"\1vllm:", twice)

    def collect(self) -> Iterator[Metric]:
        """Gives the metrics as they stand."""
        stats = self._engine.stats()
        yield from self._engine_metrics(stats)
        success = CounterMetricFamily(
            "r1jax:request_success",
            "Sequences ended, by reason.",
            labels=[*_LABELS, "finished_reason"],
        )
        for reason, count in self._finished.items():
            success.add_metric([*self._labels, reason], count)
        yield success
        for name, (meaning, _) in _HISTOGRAMS.items():
            yield self._histogram(name, meaning, self.time_of[name])
        yield self._histogram(
            "iteration_tokens_total", "Tokens fed to a step.", _by_step(stats)
        )
        yield from self._http_metrics()

    def _histogram(self, name: str, meaning: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(f"r1jax:{name}", meaning, labels=_LABELS)
        return histogram.add_to(family, self._labels)

    def _engine_metrics(self, stats: EngineStats) -> Iterator[Metric]:
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
            "prefix_cache_queries": ("Prompt tokens looked for.", stats.prefix_queries),
            "prefix_cache_hits": ("Prompt tokens found cached.", stats.prefix_hits),
            "spec_decode_num_drafts": ("Times tokens were guessed.", stats.drafts),
            "spec_decode_num_draft_tokens": ("Tokens guessed ahead.", stats.drafted),
            "spec_decode_num_accepted_tokens": ("Guesses kept.", stats.accepted),
            "engine_steps": ("Steps of the engine.", stats.steps),
        }
        for family, metrics in (
            (GaugeMetricFamily, gauges),
            (CounterMetricFamily, counters),
        ):
            for name, (meaning, value) in metrics.items():
                metric = family(f"r1jax:{name}", meaning, labels=_LABELS)
                metric.add_metric(self._labels, value)
                yield metric
        yield self._cache_config(stats)

    def _cache_config(self, stats: EngineStats) -> Metric:
        options = self._engine.options
        facts = {
            "block_size": str(options.page_size),
            "num_gpu_blocks": str(stats.pages_total),
            "enable_prefix_caching": str(options.prefix_caching),
            "max_model_len": str(options.max_model_len),
            "max_num_seqs": str(options.max_num_seqs),
        }
        info = GaugeMetricFamily(
            "r1jax:cache_config_info",
            "How the cache is cut.",
            labels=[*_LABELS, *facts],
        )
        info.add_metric([*self._labels, *facts.values()], 1)
        return info

    def _http_metrics(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "http_requests",
            "HTTP requests answered.",
            labels=["handler", "method", "status"],
        )
        for labels, count in self._http.items():
            requests.add_metric(labels, count)
        yield requests
        seconds = HistogramMetricFamily(
            "http_request_duration_seconds",
            "From a request to the end of its answer.",
            labels=["handler"],
        )
        for handler, histogram in self._http_seconds.items():
            histogram.add_to(seconds, [handler])
        yield seconds


def _by_step(stats: EngineStats) -> Histogram:
    """Makes a histogram of the steps' tokens, which the engine counts by powers of 2.

    The sum is what the engine has fed, so it is exact.
    """
    histogram = Histogram(_STEP_TOKENS)
    for tokens, steps in stats.step_tokens.items():
        histogram.observe(tokens, steps)
    histogram.sum = float(stats.fed_tokens)
    return histogram


class ChoiceTimer:
    """Watches one sequence from its arrival to its end.

    Attributes:
      prompt_tokens: Of its prompt.
      cached_tokens: Of these, found in the cache.
      tokens: Of its answer, so far.
      queued: Seconds until a step fed it; None as long as that is not known.
      first_token: Seconds until its first token; None before.
      finish_reason: Why it ended; None before.
    """

    def __init__(self, metrics: Metrics, prompt_tokens: int, now: float) -> None:
        """Starts the clock (`time.monotonic`)."""
        self._metrics = metrics
        self.prompt_tokens = prompt_tokens
        self._start = self._last = now
        self.cached_tokens = self.tokens = 0
        self.queued: float | None = None
        self.first_token: float | None = None
        self.finish_reason: str | None = None

    @property
    def waiting(self) -> bool:
        """Tells whether no token has come yet."""
        return self.first_token is None

    def take(self, event: Event, count: int) -> None:
        """Notes that an event with `count` tokens (none or one) has come."""
        now = time.monotonic()
        if self.first_token is None:
            self.first_token = now - self._start
            self.queued, self.cached_tokens = event.queued_seconds, event.cached_tokens
            self._metrics.first_token.observe(self.first_token)
        elif count:
            self._metrics.between_tokens.observe(now - self._last)
        self.tokens += count
        self._last = now

    def finish(self, reason: str) -> None:
        """Notes that the sequence has ended."""
        self.finish_reason = reason
        self._metrics.count_finished(reason)
        time_of = self._metrics.time_of
        whole = time.monotonic() - self._start
        seen = {
            "e2e_request_latency_seconds": whole,
            "request_prompt_tokens": self.prompt_tokens,
            "request_generation_tokens": self.tokens,
        }
        if self.first_token is not None:
            decode = whole - self.first_token
            seen["request_decode_time_seconds"] = decode
            if self.tokens > 1:
                mean = (self._last - self._start - self.first_token) / (self.tokens - 1)
                seen["request_time_per_output_token_seconds"] = mean
            if self.queued is not None:
                queued = min(self.queued, self.first_token)
                seen["request_queue_time_seconds"] = queued
                seen["request_prefill_time_seconds"] = self.first_token - queued
                seen["request_inference_time_seconds"] = whole - queued
        for name, value in seen.items():
            time_of[name].observe(value)
