"""The model in the hand: many prompts at once."""

import pytest

from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.llm import LLM

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.mark.slow
def test_thousands_of_prompts_are_answered_as_each_alone(tiny, tiny_params, capsys):
    options = EngineOptions(32, 16, 32, page_size=8, num_pages=40)
    llm = LLM("toy", tiny("qwen2"), tiny_params("qwen2"), None, options, GREEDY)
    prompts = [[1 + i % 400, 2, 3 + i % 7] for i in range(3000)]
    answers = llm.generate(prompts, progress=True)
    assert "3000/3000" in capsys.readouterr().err
    assert len(answers) == 3000
    for i in range(0, 3000, 500):
        [alone] = llm.generate(prompts[i])
        assert alone.token_ids == answers[i].token_ids
    assert capsys.readouterr().err == ""
    llm.close()
