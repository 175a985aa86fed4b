"""What an operator relies on: TLS, CORS, keys, limits, the log, and being ready."""

import json
import logging
import re
import ssl
import time

import httpx
import jax
import pytest
import trustme

from r1jax.errors import ConfigError
from r1jax.serve import log
from r1jax.serve.app import Cors
from r1jax.serve.flags import parser
from r1jax.serve.generation import Limits
from r1jax.serve.settings import options_of
from r1jax.serve.tls import tls_options
from serve.conftest import ANSWER

CHAT = "/v1/chat/completions"
SECRET = "the prompt that nobody may read"


def flags(*arguments):
    return parser().parse_args(arguments)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A certificate of 127.0.0.1, its key, and the authority's certificate."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    names = {name: str(folder / f"{name}.pem") for name in ("cert", "key", "ca")}
    own.cert_chain_pems[0].write_to_path(names["cert"])
    own.private_key_pem.write_to_path(names["key"])
    authority.cert_pem.write_to_path(names["ca"])
    return names


def test_tls_is_spoken_with_the_flags_certificate(serve, llm, certificates):
    names = certificates
    tls = tls_options(
        flags("--ssl-certfile", names["cert"], "--ssl-keyfile", names["key"])
    )
    trust = ssl.create_default_context(cafile=names["ca"])
    with serve(llm, uvicorn_options=tls) as site:
        url = site.url.replace("http:", "https:")
        answer = httpx.get(f"{url}/v1/models", verify=trust)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["--ssl-keyfile", "key"], "--ssl-keyfile without --ssl-certfile"),
        (["--ssl-certfile", "nowhere.pem"], "no TLS with nowhere.pem"),
        (["--ssl-certfile", "ca"], "no TLS with"),  # its key is missing
        (["--ssl-certfile", "cert", "--ssl-cert-reqs", "2"], "without --ssl-ca-certs"),
        (
            ["--ssl-certfile", "cert", "--ssl-keyfile", "key", "--ssl-ca-certs", "key"],
            "no TLS with",
        ),
    ],
)
def test_bad_certificates_are_told_before_anything_is_loaded(certificates, given, what):
    with pytest.raises(ConfigError, match=re.escape(what)):
        tls_options(flags(*[certificates.get(word, word) for word in given]))


def test_pages_of_named_origins_may_ask_and_no_others(serve, llm):
    options = options_of(
        flags("--allowed-origins", '["https://a.example"]', "--api-key", "k")
    )
    with serve(llm, cors=options.cors, api_keys=options.api_keys) as site:
        ask = {"access-control-request-method": "POST", "origin": "https://a.example"}
        leave = site.client.options(CHAT, headers=ask)  # without a key, as browsers do
        assert leave.status_code == 200
        assert leave.headers["access-control-allow-origin"] == "https://a.example"
        refused = site.client.options(
            CHAT, headers=ask | {"origin": "https://b.example"}
        )
        assert "access-control-allow-origin" not in refused.headers
        answer = site.client.get("/v1/models", headers={"origin": "https://a.example"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_a_model_is_named_without_its_revision():
    assert options_of(flags("owner/name@main")).names == ["owner/name"]


def test_origins_come_as_words_or_as_vllms_list():
    words = flags("--allowed-origins", "https://a", "https://b", "--allow-credentials")
    listed = flags("--allowed-origins", '["https://a", "https://b"]')
    expected = ["https://a", "https://b"]
    assert options_of(words).cors == Cors(expected, ["*"], ["*"], True)
    assert options_of(listed).cors.origins == expected
    assert options_of(flags()).cors is None
    with pytest.raises(ConfigError, match="without --allowed-origins"):
        options_of(flags("--allowed-methods", "GET"))


def test_keys_come_from_flags_a_file_and_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("R1JAX_API_KEY", "three")
    path = tmp_path / "keys"
    path.write_text("four\n\n five \n")
    options = options_of(flags("--api-key", "one", "two", "--api-key-file", str(path)))
    assert options.api_keys == ["one", "two", "three", "four", "five"]
    path.write_text("\n")
    for file in (path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="no keys in"):
            options_of(flags("--api-key-file", str(file)))


def test_anthropics_header_carries_a_key_too(serve, llm):
    with serve(llm, api_keys=["one"]) as site:
        for key, status in (("one", 200), ("two", 401)):
            answer = site.client.get("/v1/models", headers={"x-api-key": key})
            assert answer.status_code == status


def test_the_queue_is_bounded_in_tokens_too(serve, llm):
    llm.engine.go.clear()
    with serve(llm, limits=Limits(max_queued_tokens=8)) as site:
        body = {"prompt": "abcdefgh", "stream": True}
        with site.client.stream("POST", "/v1/completions", json=body) as waiting:
            refused = site.complete()
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert "9 prompt tokens" in refused.json()["error"]["message"]
            llm.engine.go.set()
            list(waiting.iter_lines())
        assert site.complete().status_code == 200


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        (Limits(queue_timeout=0.1), 503, "queue_timeout"),
        (Limits(request_timeout=0.1), 504, "request_timeout"),
    ],
)
def test_requests_that_wait_too_long_are_told_and_cancelled(
    serve, llm, eventually, limits, status, code
):
    llm.engine.go.clear()
    with serve(llm, limits=limits) as site:
        answer = site.chat()
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
        assert ("retry-after" in answer.headers) == (status == 503)
        [event] = [
            json.loads(line[6:])
            for line in site.chat(stream=True).text.splitlines()
            if line
        ]
        assert event["error"]["code"] == code
        eventually(lambda: llm.engine.finished == ["abort", "abort"])


def test_a_request_that_has_begun_is_not_in_the_queue(serve, llm):
    llm.engine.pace = 0.005
    with serve(llm, limits=Limits(queue_timeout=0.1)) as site:
        assert site.chat().status_code == 200
    assert llm.engine.finished == ["stop"]


def test_ready_means_compiled(site, llm):
    llm.engine.compiled = False
    answer = site.client.get("/health")
    assert answer.status_code == 503
    assert answer.json() == {"status": "compiling"}
    llm.engine.compiled = True
    assert site.client.get("/health").status_code == 200


@pytest.mark.parametrize("form", log.FORMATS)
def test_each_request_has_a_line_without_its_words(serve, llm, capsys, form):
    log.set_up("info", form)
    message = {"role": "user", "content": SECRET}
    with serve(llm) as site:
        headers = {"x-request-id": "mine"}
        site.client.post(CHAT, json={"messages": [message]}, headers=headers)
        site.client.post(CHAT, json={"messages": [], "x": SECRET}, headers=headers)
        site.client.get("/health")
        site.client.get("/nowhere")
    written = capsys.readouterr().err
    assert SECRET not in written
    assert ANSWER not in written
    lines = written.splitlines()
    assert len(lines) == 3
    if form == "json":
        answered, refused, lost = map(json.loads, lines)
        tokens = len(llm.encode(llm.engine.text)) + 1
        assert answered["request_id"] == "mine"
        assert answered["path"] == CHAT
        assert answered["model"] == "recital"
        assert answered["finish"] == "stop"
        assert answered["completion_tokens"] == tokens
        assert answered["prompt_tokens"] == len(llm.engine.prompts[0])
        assert 0 < answered["first_token_seconds"] <= answered["seconds"]
        assert refused["status"] == 400
        assert refused["error"] == "unknown_parameter"
        assert lost["status"] == 404
    else:
        assert " INFO request request_id=mine method=POST " in lines[0]
        assert "finish=stop" in lines[0]


def test_below_info_requests_are_silent_and_failures_are_not(
    serve, llm, capsys, monkeypatch
):
    log.set_up("warning", "json")
    monkeypatch.setattr(llm.engine, "submit", None)
    with serve(llm) as site:
        answer = site.client.post(
            CHAT,
            json={"messages": [{"role": "user", "content": "x"}]},
            headers={"x-request-id": "odd"},
        )
    assert answer.status_code == 500
    [line] = map(json.loads, capsys.readouterr().err.splitlines())
    assert line["level"] == "error"
    assert line["request_id"] == "odd"
    assert "TypeError" in line["exception"]


def test_words_in_the_log_stay_in_their_line(caplog):
    record = logging.makeLogRecord(
        {"msg": "m", "levelname": "INFO", "fields": {"path": "/a b\nc=d"}}
    )
    assert log._Text().format(record).endswith('INFO m path="/a b\\nc=d"')


def test_profiles_are_written_where_the_flag_says(serve, llm, tmp_path):
    with serve(llm) as site:
        assert site.client.post("/start_profile").status_code == 404
    with serve(llm, profiler_dir=str(tmp_path)) as site:
        assert site.client.post("/stop_profile").status_code == 400
        assert site.client.post("/start_profile").status_code == 200
        assert site.client.post("/start_profile").status_code == 400
        assert site.client.post("/stop_profile").status_code == 200
    assert list(tmp_path.rglob("*.xplane.pb"))


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_frees_the_slot_within_a_step(
    serve, real_llm, eventually, monkeypatch, stream
):
    engine, seen = real_llm.engine, {}
    cancel = engine.cancel

    def note(number):
        seen["told"] = engine.stats().steps
        cancel(number)

    monkeypatch.setattr(engine, "cancel", note)
    with serve(real_llm) as site:
        body = {"prompt": "a", "max_tokens": 250, "ignore_eos": True, "stream": stream}
        if stream:
            with site.client.stream("POST", "/v1/completions", json=body) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{site.url}/v1/completions", json=body, timeout=0.1)
        eventually(lambda: "told" in seen)
        eventually(lambda: engine.stats().running == 0)
    stats = engine.stats()
    assert stats.pages_used == 0
    assert stats.steps <= seen["told"] + 2  # the one that runs, and the one planned


def test_nothing_is_compiled_on_a_requests_path(serve, real_llm):
    compiled = []

    def note(name, seconds, **kwargs):
        if name.endswith("backend_compile_duration"):
            compiled.append(name)

    with serve(real_llm) as site:
        assert site.client.get("/health").status_code == 200
        jax.monitoring.register_event_duration_secs_listener(note)
        try:
            for extra in (
                {},
                {"temperature": 0.7, "seed": 3, "top_k": 5, "min_p": 0.1},
                {"presence_penalty": 1.0, "repetition_penalty": 1.2, "n": 3},
                {"logprobs": 5, "stop": ["ab"], "echo": False},
                {"prompt": ["x" * 60, "y" * 100, "z"], "n": 2},
                {"prompt": "w" * 200, "stream": True},
            ):
                answer = site.complete(**{"max_tokens": 12, **extra})
                assert answer.status_code == 200, answer.text
            site.chat(max_tokens=5)
            assert not compiled
            jax.jit(lambda x: x + time.time())(1.0)  # the listener does hear
            assert compiled
        finally:
            jax.monitoring.unregister_event_duration_listener(note)
