"""Batches: the server's answers without a server, each once, whatever stops the run."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

from r1jax.serve import __main__ as command
from serve.conftest import ANSWER, THOUGHT

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "1+1?"}]


def line(name, url=CHAT, method="POST", **body):
    body = body or {"messages": MESSAGES}
    return {"custom_id": name, "method": method, "url": url, "body": body}


def write(path, *lines):
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")


def read(path):
    return [json.loads(each) for each in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def run(llm, monkeypatch, tmp_path, capsys):
    """Runs the command on `in.jsonl`; gives its exit code and what it said."""
    monkeypatch.setattr(command, "load", lambda source, **arguments: llm)
    monkeypatch.setattr(llm, "close", lambda: None)

    def run(*more, source=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl"):
        files = ["--batch", str(source), "--output", str(output)]
        code = command.main([*files, "--served-model-name", "recital", *more])
        return code, capsys.readouterr().err

    return run


def test_requests_are_answered_as_the_server_would(run, tmp_path, site, llm):
    write(
        tmp_path / "in.jsonl",
        line("chat", messages=MESSAGES, model="recital"),
        line("text", TEXT, prompt=["a", "b"], max_tokens=3),
        "",
    )
    code, said = run()
    assert code == 0
    assert "2 answered, 0 refused, 0 answered before" in said
    answers = {each["custom_id"]: each for each in read(tmp_path / "out.jsonl")}
    for name, served in (
        ("chat", site.chat()),
        ("text", site.complete(prompt=["a", "b"], max_tokens=3)),
    ):
        answer = answers[name]
        assert answer.keys() == {"id", "custom_id", "response", "error"}
        assert answer["id"].startswith("batch_req_")
        assert answer["error"] is None
        assert answer["response"]["status_code"] == 200
        assert answer["response"]["request_id"]
        varying = {"id": None, "created": None}
        assert answer["response"]["body"] | varying == served.json() | varying
    message = answers["chat"]["response"]["body"]["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (THOUGHT, ANSWER)


BAD = [
    ("{", "invalid_json", 1),
    ('{"custom_id": 5}', "invalid_custom_id", 2),
    (line("a", prompt="x"), "unknown_parameter", None),
    (line("a"), "duplicate_custom_id", 4),
    (line("b", "/v1/nothing"), 400, None),
    (line("c", method="GET"), 400, None),
    (line("d", TEXT, prompt="x", stream=True), 400, None),
    (line("e", TEXT, prompt="x", model="other"), "model_not_found", None),
    ({"custom_id": "f", "method": "POST", "url": CHAT}, 400, None),
    (line("g", TEXT, prompt=[999_999]), 400, None),
]


def test_bad_lines_are_told_and_the_others_go_on(run, tmp_path):
    write(tmp_path / "in.jsonl", *[each for each, _, _ in BAD], line("good"))
    code, _ = run()
    assert code == 3
    answers = read(tmp_path / "out.jsonl")
    by_line = {a["error"]["line"]: a for a in answers if a["error"]}
    by_name = {a["custom_id"]: a["response"] for a in answers if a["response"]}
    for given, expected, number in BAD:
        if number is not None:
            assert by_line[number]["error"]["code"] == expected
            assert by_line[number]["custom_id"] is None
            continue
        response = by_name[given["custom_id"]]
        assert 400 <= response["status_code"] < 500
        error = response["body"]["error"]
        assert error["message"]
        if isinstance(expected, str):
            assert error["code"] == expected
    assert by_name["good"]["status_code"] == 200
    assert len(answers) == len(BAD) + 1
    assert "0 answered, 0 refused, 11 answered before" in run()[1]
    assert read(tmp_path / "out.jsonl") == answers  # nothing is asked or told twice


@pytest.mark.parametrize("cut", [1, 30, -1, -20])
def test_a_torn_last_line_is_mended(run, tmp_path, llm, cut):
    write(tmp_path / "in.jsonl", *[line(str(i)) for i in range(4)])
    run()
    whole = (tmp_path / "out.jsonl").read_bytes()
    *kept, last = whole.splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(b"".join(kept) + last[:cut])
    asked = len(llm.engine.prompts)
    assert run()[0] == 0
    answers = read(tmp_path / "out.jsonl")
    assert Counter(a["custom_id"] for a in answers) == Counter("0123")
    assert (tmp_path / "out.jsonl").read_bytes().startswith(b"".join(kept))
    # A line that lacks its end alone is whole.
    assert len(llm.engine.prompts) - asked == (cut != -1)


def test_what_is_no_output_is_left_alone(run, tmp_path):
    write(tmp_path / "in.jsonl", line("a"))
    for text in ("my diary", '{"custom_id": "a"', "1\n", '{"a": 1}\n{"id":"batch_req_'):
        (tmp_path / "out.jsonl").write_text(text)
        code, said = run()
        assert code == 2
        assert "cannot take the answers" in said
        assert (tmp_path / "out.jsonl").read_text() == text


def test_flags_and_files_that_do_not_fit_are_told(run, tmp_path, capsys):
    code, said = run(source=tmp_path / "nowhere")
    assert code == 2
    assert "cannot be read" in said
    write(tmp_path / "in.jsonl", line("a"))
    code, said = run(output=tmp_path / "in.jsonl")
    assert code == 2
    assert read(tmp_path / "in.jsonl") == [line("a")]
    for flag in (["--port", "1"], ["--api-key", "k"], ["--queue-timeout", "1"]):
        code, said = run(*flag)
        assert code == 2
        assert f"{flag[0]} together with --batch" in said
    code, said = run(output=tmp_path / "no" / "such" / "folder")
    assert code == 2
    assert command.main(["--batch", "x"]) == 2
    assert "go together" in capsys.readouterr().err


def test_an_engine_that_fails_leaves_the_rest_for_the_next_run(run, tmp_path, llm):
    write(tmp_path / "in.jsonl", *[line(str(i)) for i in range(40)])
    llm.engine.failure = "out of memory"
    code, said = run()
    assert code == 1
    assert "the batch breaks off: out of memory" in said
    assert read(tmp_path / "out.jsonl") == []
    llm.engine.failure = None
    assert run()[0] == 0
    assert len(read(tmp_path / "out.jsonl")) == 40


def test_so_many_run_at_a_time_and_no_more(run, tmp_path, llm, monkeypatch):
    running, most = set(), [0]
    llm.engine.go.clear()  # until so many have come
    submit = llm.engine.submit

    def count(prompt, sampling, on_event, guide=None):
        def hear(event):
            if event.finish:
                running.discard(name)
            on_event(event)

        name = object()
        running.add(name)
        most[0] = max(most[0], len(running))
        if len(running) == 16:
            llm.engine.go.set()
        return submit(prompt, sampling, hear, guide)

    monkeypatch.setattr(llm.engine, "submit", count)
    names = [str(i) for i in range(60)]
    write(tmp_path / "in.jsonl", *[line(n, TEXT, prompt="a") for n in names])
    assert run()[0] == 0
    assert most[0] == 16


SLOWLY = """
    import sys
    from pathlib import Path
    from r1jax.serve import __main__ as command
    from r1jax.text.tokenizer import Tokenizer
    from serve.conftest import FakeLLM

    llm = FakeLLM(Tokenizer.from_directory(sys.argv[1]))
    llm.engine.pace = 0.003
    command.load = lambda source, **arguments: llm
    sys.exit(command.main(sys.argv[2:]))
"""


def test_a_run_that_was_killed_is_gone_on_with(
    run, tmp_path, folder_of_words, eventually
):
    names = [str(i) for i in range(64)]
    write(tmp_path / "in.jsonl", *[line(n, TEXT, prompt="a") for n in names])
    output = tmp_path / "out.jsonl"
    root = Path(__file__).parents[2]
    flags = ["--batch", tmp_path / "in.jsonl", "--output", output]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOWLY), folder_of_words, *flags],
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (output.exists() and output.stat().st_size):
        time.sleep(0.001)
    assert process.poll() is None, "it was done before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = output.read_bytes()
    assert 0 < before.count(b"\n") < len(names)
    assert run()[0] == 0
    assert output.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    assert Counter(a["custom_id"] for a in read(output)) == Counter(names)
