"""What Prometheus sees: vLLM's names and labels, and a board that reads them."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from r1jax.engine.types import EngineStats, Event
from r1jax.serve.histogram import Histogram
from r1jax.serve.metrics import ChoiceTimer, Metrics

BOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"
VLLM = [
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"),
    *("prompt_tokens_total", "generation_tokens_total", "num_preemptions_total"),
    *("prefix_cache_queries_total", "prefix_cache_hits_total", "request_success_total"),
    *("time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket"),
    *("request_time_per_output_token_seconds_sum", "e2e_request_latency_seconds_count"),
    *("request_queue_time_seconds_count", "request_prefill_time_seconds_count"),
    *("request_decode_time_seconds_count", "request_inference_time_seconds_count"),
    *("request_prompt_tokens_count", "request_generation_tokens_count"),
    *("iteration_tokens_total_count", "iteration_tokens_total_sum"),
    *("cache_config_info", "spec_decode_num_draft_tokens_total"),
    "spec_decode_num_accepted_tokens_total",
]


def scrape(site):
    """Gives each sample by name and labels, `le` among them."""
    text = site.client.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples, name, **labels):
    """Gives the one sample that has these labels."""
    [found] = [
        number
        for (sample, *pairs), number in samples.items()
        if sample == name and labels.items() <= dict(pairs).items()
    ]
    return found


def test_every_name_of_vllms_boards_is_there_with_its_labels(site):
    samples = scrape(site)
    for name in VLLM:
        for prefix in ("vllm:", "r1jax:"):
            labels = [
                dict(pairs) for found, *pairs in samples if found == prefix + name
            ]
            assert labels, name
            assert all(each["model_name"] == "recital" for each in labels)
            assert all(each["engine"] == "0" for each in labels)
    info = next(dict(p) for name, *p in samples if name == "vllm:cache_config_info")
    assert info["block_size"] == "32"
    assert info["num_gpu_blocks"] == "12"


def test_all_that_the_board_reads_is_exported(site):
    site.chat()
    board = json.loads(BOARD.read_text())
    exported = {name for name, *_ in scrape(site)}
    queries = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    queries += [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    read = set(re.findall(r"\b(?:vllm:|http_|process_)\w+", " ".join(queries)))
    assert len(read) > 15
    assert read <= exported
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_http_answers_are_counted_by_route_method_and_status(site):
    site.chat()
    site.chat(n=-1)
    site.client.get("/v1/models/alias")
    for secret in ("/a", "/b", "/v1/nothing"):
        site.client.get(secret)
    site.client.request("PROPFIND", "/v1/models")
    samples = scrape(site)

    def count(handler, method, status):
        labels = {"handler": handler, "method": method, "status": status}
        return value(samples, "http_requests_total", **labels)

    assert count("/v1/chat/completions", "POST", "2xx") == 1
    assert count("/v1/chat/completions", "POST", "4xx") == 1
    assert count("/v1/models/{model}", "GET", "2xx") == 1
    assert count("none", "GET", "4xx") == 3
    assert count("/v1/models", "other", "4xx") == 1
    seconds = "http_request_duration_seconds_count"
    assert value(samples, seconds, handler="/v1/chat/completions") == 2
    assert value(samples, "process_resident_memory_bytes") > 0


def test_what_clients_ask_for_makes_no_series_of_its_own(site):
    for name in ("a", "b", "cancel", "c", "a/b"):
        site.client.post(f"/v1/responses/{name}/cancel")
        site.client.get(f"/v1/models/{name}")
        site.client.get(f"/ui/{name}/{name}.js")
        site.client.get(f"/nowhere/{name}")
    seen = {
        sample.labels["handler"]
        for family in text_string_to_metric_families(site.client.get("/metrics").text)
        for sample in family.samples
        if family.name == "http_requests"
    }
    assert seen == {
        "/v1/responses/{id}/cancel",
        "/v1/models/{model}",
        "/ui/{digest}/{path}",
        "none",
    }


def test_the_parts_of_a_requests_time_make_its_whole(serve, real_llm):
    with serve(real_llm) as site:
        before = real_llm.engine.stats()
        site.complete(max_tokens=10, ignore_eos=True)
        samples = scrape(site)
        after = real_llm.engine.stats()

    def seconds(name):
        return value(samples, f"vllm:{name}_seconds_sum")

    queue, prefill = seconds("request_queue_time"), seconds("request_prefill_time")
    decode, whole = seconds("request_decode_time"), seconds("e2e_request_latency")
    assert min(queue, prefill, decode) > 0
    assert queue + prefill == pytest.approx(seconds("time_to_first_token"))
    assert queue + prefill + decode == pytest.approx(whole)
    assert prefill + decode == pytest.approx(seconds("request_inference_time"))
    steps = value(samples, "vllm:iteration_tokens_total_count")
    assert steps == sum(after.step_tokens.values()) == after.steps
    fed = value(samples, "vllm:iteration_tokens_total_sum")
    assert fed == after.fed_tokens
    prompt = len(real_llm.tokenizer.encode_prompt("1+1"))
    # What the last token would have fed is never run, or not counted as known.
    assert prompt + 9 <= after.fed_tokens - before.fed_tokens <= prompt + 10


def test_a_histogram_counts_as_prometheus_does():
    histogram = Histogram([1, 2.5])
    for number in (0.5, 1, 1.1, 2.5, 9):
        histogram.observe(number)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 14.1


class Idle:
    failure, options = None, None

    def stats(self):
        return EngineStats()


def test_a_sequence_that_never_began_has_no_times_of_its_parts():
    metrics = Metrics(Idle(), "m")
    ChoiceTimer(metrics, 5, 0.0).finish("abort")
    counts = {name: sum(h.counts) for name, h in metrics.time_of.items()}
    assert {name for name, count in counts.items() if count} == {
        "e2e_request_latency_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
    }


def test_cached_and_queued_come_from_the_first_event():
    timer = ChoiceTimer(Metrics(Idle(), "m"), 5, 0.0)
    timer.take(Event(1, 7, cached_tokens=3, queued_seconds=0.25), 1)
    timer.take(Event(1, 8, queued_seconds=0.25), 1)
    assert (timer.cached_tokens, timer.queued, timer.tokens) == (3, 0.25, 2)
