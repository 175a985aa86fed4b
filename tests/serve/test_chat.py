"""Chat completions, whole and streamed."""

import pytest

THOUGHT, ANSWER = "Ünë pénsée: 1+1 → 2.", "It is 2. 🎉 Done\n"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "1+1?"}]


def prompt_text(llm):
    return llm.tokenizer.decode(llm.engine.prompts[-1], skip_special=False)


def test_thinking_and_answer_come_apart(site):
    choice = site.chat().json()["choices"][0]
    assert choice["message"] == {
        "role": "assistant",
        "content": ANSWER,
        "reasoning_content": THOUGHT,
        "reasoning": THOUGHT,
    }
    assert choice["finish_reason"] == "stop"


def test_the_prompt_is_made_to_think(site, llm):
    site.chat()
    assert prompt_text(llm) == "<bos><|user|>1+1?<｜Assistant｜><think>\n"


@pytest.mark.parametrize(
    "switch",
    [
        {"thinking": {"type": "disabled"}},
        {"chat_template_kwargs": {"thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_without_thinking_the_prompt_ends_in_an_empty_thought(site, llm, switch):
    llm.engine.text = ANSWER
    message = site.chat(**switch).json()["choices"][0]["message"]
    assert prompt_text(llm).endswith("<｜Assistant｜><think>\n\n</think>\n\n")
    assert message["content"] == ANSWER
    assert message["reasoning_content"] is None


def test_a_template_that_opens_the_thought_is_left_as_it_is(site, llm, monkeypatch):
    opened = llm.tokenizer.chat_template.source + "<think>\n"
    template = type(llm.tokenizer.chat_template)(opened, "<bos>", "<eos>")
    monkeypatch.setattr(llm.tokenizer, "chat_template", template)
    site.chat()
    assert prompt_text(llm).count("<think>") == 1
    site.chat(thinking={"type": "disabled"})
    assert prompt_text(llm).endswith("<｜Assistant｜><think>\n\n</think>\n\n")


def test_a_model_that_does_not_think_answers_with_content_alone(plain_site, plain_llm):
    plain_llm.engine.text = f"<think>a</think>{ANSWER}"
    message = plain_site.chat().json()["choices"][0]["message"]
    expected = f"<think>a</think>{ANSWER}"
    assert message == {"role": "assistant", "content": expected}
    assert prompt_text(plain_llm).endswith("<｜Assistant｜>")


def test_usage_adds_up(site, llm):
    usage = site.chat(n=2).json()["usage"]
    answer = len(llm.encode(f"{THOUGHT}\n</think>\n\n{ANSWER}")) + 1
    thought = len(llm.encode(f"{THOUGHT}\n</think>"))
    assert usage == {
        "prompt_tokens": len(llm.engine.prompts[0]),
        "completion_tokens": 2 * answer,
        "total_tokens": len(llm.engine.prompts[0]) + 2 * answer,
        "prompt_tokens_details": {"cached_tokens": 0},
        "prompt_cache_hit_tokens": 0,
        "prompt_cache_miss_tokens": len(llm.engine.prompts[0]),
        "completion_tokens_details": {"reasoning_tokens": 2 * thought},
    }


@pytest.mark.parametrize("extra", [{}, {"stop": ["Done", "zzz"]}, {"max_tokens": 30}])
def test_the_stream_joined_is_the_whole_answer(site, extra):
    whole = site.chat(n=2, seed=5, **extra).json()["choices"]
    fields = ("content", "reasoning_content", "reasoning")
    joined = [dict.fromkeys(fields, "") for _ in whole]
    finishes = {}
    for event in site.events(CHAT, messages=MESSAGES, n=2, seed=5, **extra):
        (choice,) = event["choices"]
        for field in fields:
            joined[choice["index"]][field] += choice["delta"].get(field, "")
        if choice["finish_reason"]:
            finishes[choice["index"]] = choice["finish_reason"]
    for index, choice in enumerate(whole):
        assert choice["message"] == {"role": "assistant", **joined[index]}
        assert choice["finish_reason"] == finishes[index]


def test_a_stream_opens_with_the_role_and_thinks_before_it_answers(site):
    events = site.events(CHAT, messages=MESSAGES)
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    fields = [next(iter(delta)) for delta in deltas[1:] if delta]
    assert fields == sorted(fields, reverse=True)
    assert set(fields) == {"reasoning_content", "content"}
    assert all("usage" not in event for event in events)


def test_stream_usage_comes_last_and_equals_that_of_the_whole(site):
    options = {"include_usage": True}
    events = site.events(CHAT, messages=MESSAGES, stream_options=options)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == site.chat().json()["usage"]
    assert all(event["usage"] is None for event in events[:-1])


def test_continuous_usage_grows_with_every_chunk(site):
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = site.events(CHAT, messages=MESSAGES, stream_options=options)
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[0] == 1


def test_a_stop_string_is_left_out_and_calls_the_sequence_off(site, llm, eventually):
    llm.engine.pace = 0.005
    choice = site.chat(stop="2. 🎉").json()["choices"][0]
    assert choice["message"]["content"] == "It is "
    assert choice["finish_reason"] == "stop"
    eventually(lambda: llm.engine.finished == ["abort"])


def test_a_stop_string_can_be_kept(site):
    choice = site.chat(stop="2. 🎉", include_stop_str_in_output=True).json()
    assert choice["choices"][0]["message"]["content"] == "It is 2. 🎉"


def test_choices_differ_by_their_seed(site, llm):
    choices = site.chat(n=3, seed=7, temperature=0).json()["choices"]
    contents = [choice["message"]["content"] for choice in choices]
    assert contents == [f"{ANSWER}{seed}" for seed in (7, 8, 9)]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert {params.temperature for params in llm.engine.samplings} == {0}


def test_what_the_request_leaves_out_comes_from_the_model(site, llm):
    site.chat(top_k=-1, max_completion_tokens=10**30, presence_penalty=1)
    params = llm.engine.samplings[0]
    assert (params.temperature, params.top_p, params.top_k) == (0.6, 0.95, 0)
    assert params.presence_penalty == 1
    assert params.max_tokens == llm.engine.max_model_len


def test_logprobs_of_thought_and_answer_come_apart(site, llm):
    choice = site.chat(logprobs=True, top_logprobs=2).json()["choices"][0]
    thought, answer = (
        choice["logprobs"][part] for part in ("reasoning_content", "content")
    )
    text = bytes(byte for entry in thought for byte in entry["bytes"]).decode()
    assert text == f"{THOUGHT}\n</think>"
    text = bytes(byte for entry in answer for byte in entry["bytes"]).decode()
    assert text == f"\n\n{ANSWER}<eos>"
    assert answer[2]["token"] == "I"
    assert [entry["logprob"] for entry in answer[2]["top_logprobs"]] == [-0.5, -9999.0]


def test_streamed_logprobs_are_those_of_the_whole(site):
    whole = site.chat(logprobs=True).json()["choices"][0]["logprobs"]
    streamed = {"content": [], "reasoning_content": []}
    for event in site.events(CHAT, messages=MESSAGES, logprobs=True):
        for part, entries in (event["choices"][0]["logprobs"] or {}).items():
            streamed[part] += entries
    assert streamed == whole


def test_earlier_thoughts_are_taken_and_dropped(site, llm):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}] * 2},
        {
            "role": "assistant",
            "content": "b",
            "reasoning_content": "hidden",
            "refusal": None,
            "tool_calls": [],
        },
        {"role": "user", "content": "c"},
    ]
    assert site.chat(messages=messages).status_code == 200
    text = "<bos><|system|>Be brief.<|user|>a\na<|assistant|>b<|user|>c<｜Assistant｜>"
    assert prompt_text(llm) == f"{text}<think>\n"


def test_a_thought_cut_short_is_reasoning_with_empty_content(site):
    choice = site.chat(max_tokens=5).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == ""
    assert THOUGHT.startswith(choice["message"]["reasoning_content"])


def test_a_model_without_a_template_says_so(site, llm, monkeypatch):
    monkeypatch.setattr(llm.tokenizer, "chat_template", None)
    response = site.chat()
    assert response.status_code == 400
    assert "no chat template" in response.json()["error"]["message"]
