"""OpenAI's own Python client, unmodified, against the server."""

import openai
import pytest

THOUGHT, ANSWER = "Ünë pénsée: 1+1 → 2.", "It is 2. 🎉 Done\n"
MESSAGES = [{"role": "user", "content": "1+1?"}]


@pytest.fixture
def client(site):
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def test_chat(client):
    completion = client.chat.completions.create(
        model="recital", messages=MESSAGES, logprobs=True, top_logprobs=1
    )
    message = completion.choices[0].message
    assert message.content == ANSWER
    assert message.reasoning_content == THOUGHT
    assert completion.choices[0].logprobs.content[2].token == "I"
    details = completion.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < completion.usage.completion_tokens


def test_an_answer_can_be_sent_back_as_it_came(client):
    message = (
        client.chat.completions.create(model="recital", messages=MESSAGES)
        .choices[0]
        .message
    )
    messages = [*MESSAGES, message, {"role": "user", "content": "Why?"}]
    again = client.chat.completions.create(model="recital", messages=messages)
    assert again.choices[0].message.content == ANSWER


def test_chat_stream(client):
    stream = client.chat.completions.create(
        model="recital",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
    )
    thought, answer, usage = "", "", None
    for chunk in stream:
        usage = chunk.usage
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning_content", "")
            answer += choice.delta.content or ""
    assert (thought, answer) == (THOUGHT, ANSWER)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_completions(client):
    arguments = dict(model="recital", prompt="1+1", max_tokens=100)
    whole = client.completions.create(**arguments)
    stream = client.completions.create(**arguments, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_a_prompt_is_scored_as_evaluations_do(client):
    completion = client.completions.create(
        model="recital", prompt=[64, 65, 66], max_tokens=0, echo=True, logprobs=1
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs.token_logprobs == [None, -0.25, -0.25]
    assert logprobs.tokens == ["a", "b", "c"]
    assert logprobs.text_offset == [0, 1, 2]


def test_the_clients_own_parameters_are_taken(client):
    completion = client.chat.completions.create(
        model="recital",
        messages=MESSAGES,
        frequency_penalty=0.5,
        logit_bias={"64": -100},
        max_completion_tokens=100,
        metadata={"a": "b"},
        n=2,
        presence_penalty=0.5,
        seed=3,
        stop=["Done"],
        store=False,
        temperature=0,
        top_p=0.5,
        user="me",
        extra_body={"top_k": 4, "min_tokens": 3, "bad_words": ["x"], "priority": 1},
    )
    assert [choice.finish_reason for choice in completion.choices] == ["stop"] * 2
    assert completion.usage.prompt_tokens_details.cached_tokens == 0


def test_the_chat_streams_helper_adds_up(client):
    with client.chat.completions.stream(model="recital", messages=MESSAGES) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert message.content == ANSWER
    assert "content.done" in kinds


def test_models(client):
    assert [model.id for model in client.models.list()] == ["recital", "alias"]
    assert client.models.retrieve("alias").id == "alias"


def test_errors_become_the_clients_own(client, serve, llm):
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="recital", messages=[])
    assert bad.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with serve(llm, api_keys=["k"]) as site:
        url = f"{site.url}/v1"
        with (
            openai.OpenAI(base_url=url, api_key="x") as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()
        with openai.OpenAI(base_url=url, api_key="k") as friend:
            assert friend.models.list().data


def test_an_error_in_mid_stream_is_raised(client, llm):
    llm.engine.pace = 0.01
    stream = client.completions.create(
        model="recital", prompt="a", max_tokens=100, stream=True
    )
    next(stream)
    llm.engine.failure = "out of memory"
    with pytest.raises(openai.APIError, match="out of memory"):
        list(stream)
