"""Asking: what is sent, how the answer comes, and what can be done with it."""

import re
import time

import pytest
from playwright.sync_api import expect
from starlette.responses import JSONResponse


def failure(status, message):
    return JSONResponse({"error": {"message": message, "code": None}}, status)


def answers(page):
    return page.locator(".answer > .prose")


@pytest.fixture
def told(page, script, ask):
    """A conversation of one question and its answer."""
    script.answers.append([("think", "Let me see."), ("say", "It is **four**.")])
    ask(page, "2+2?")
    expect(page.locator(".stats")).not_to_be_empty()
    return page


def test_the_page_greets_with_the_model_and_questions_for_it(page, script):
    expect(page.locator("#hello")).to_have_text("R1-Recital")
    expect(page.locator(".example")).to_have_count(3)
    script.answers.append([("say", "-8 and -11")])
    page.get_by_role("button", name="Maths").click()
    expect(answers(page)).to_have_text("-8 and -11")
    assert script.asked[0]["messages"][0]["content"].startswith("Find all integers")
    expect(page.locator("#empty")).to_be_hidden()


def test_an_answer_comes_with_its_thinking_open_then_folded(page, script, ask):
    thinking, writing = script.hold(), script.hold()
    script.answers.append(
        [
            ("think", "Two and two, $2+2$."),
            ("hold", thinking),
            ("say", "It is "),
            ("hold", writing),
            ("say", "**four**."),
        ]
    )
    ask(page, "2+2?")
    expect(page.locator(".thought")).to_be_visible()
    expect(page.locator(".thought")).to_contain_text("Two and two")
    expect(page.locator("summary")).to_contain_text(re.compile(r"^Thinking… \d"))
    expect(page.locator("summary")).to_contain_text("s, 5 tokens")
    thinking.set()
    expect(answers(page)).to_have_text("It is")
    expect(page.locator("summary")).to_have_text(
        re.compile(r"^Thought for [\d.]+ s, 5 tokens$")
    )
    expect(page.locator(".thought")).to_be_hidden()
    assert page.locator(".actions").last.is_hidden()
    writing.set()
    expect(answers(page).locator("strong")).to_have_text("four")
    page.locator("summary").click()
    expect(page.locator(".thought .katex")).to_be_visible()


def test_what_was_asked_for_is_what_the_settings_say(told, script):
    assert script.asked == [
        {
            "model": "deepseek/R1-Recital",
            "messages": [{"role": "user", "content": "2+2?"}],
            "temperature": 0.6,
            "top_p": 0.95,
            "thinking": {"type": "enabled"},
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
    ]


def test_settings_are_sent_kept_and_reset(page, script, ask):
    page.get_by_role("button", name="Settings").click()
    for label, value in (
        ("Temperature", "0.1"),
        ("Max tokens", "50"),
        ("Seed", "7"),
        ("System prompt", " Be brief. "),
    ):
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Save").click()
    page.reload()
    script.answers += [[("say", "Yes.")], [("say", "Yes.")]]
    ask(page, "Well?")
    expect(answers(page)).to_have_text("Yes.")
    body = script.asked[0]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.1, 50, 7)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Temperature").press("Enter")  # sends the form
    expect(page.locator("dialog")).to_have_count(0)
    ask(page, "And now?")
    expect(answers(page)).to_have_text(["Yes.", "Yes."])
    body = script.asked[1]
    assert (body["temperature"], "max_tokens" in body, "seed" in body) == (
        0.6,
        False,
        False,
    )
    assert [message["role"] for message in body["messages"]] == [
        "user",
        "assistant",
        "user",
    ]


def test_impossible_settings_are_refused_by_the_form(page):
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("9")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_the_numbers_of_an_answer_are_told(page, script, ask):
    script.cached = 1000
    script.answers.append([("think", "x" * 40), ("say", "y" * 80)])
    ask(page, "Go")
    expect(page.locator(".stats")).to_have_text(
        re.compile(
            r"^30 tokens · [\d,.]+ tokens/s · first after [\d.]+ s"
            r" · prompt 1,234 tokens, 1,000 cached$"
        )
    )


def test_deepthink_is_switched_off_and_stays_off(page, script, ask):
    switch = page.get_by_role("button", name="DeepThink")
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    page.reload()
    expect(page.locator("#hello")).to_have_text("R1-Recital")
    expect(switch).to_have_attribute("aria-pressed", "false")
    script.answers.append([("say", "At once.")])
    ask(page, "Go")
    expect(answers(page)).to_have_text("At once.")
    assert script.asked[0]["thinking"] == {"type": "disabled"}
    expect(page.locator(".thinking")).to_be_hidden()


def test_a_model_that_cannot_think_is_not_asked_to(visit, url, script, ask):
    script.reasoning = False
    page = visit(url)
    switch = page.get_by_role("button", name="DeepThink")
    expect(switch).to_be_disabled()
    expect(switch).to_have_attribute("title", re.compile("not trained to think"))
    script.answers.append([("say", "Hello.")])
    ask(page, "Hi")
    expect(answers(page)).to_have_text("Hello.")
    assert "thinking" not in script.asked[0]


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_an_answer_is_stopped_and_what_came_is_kept(page, script, ask, way):
    script.answers.append([("say", "Half an"), ("hold", script.hold())])
    ask(page, "Go")
    expect(answers(page)).to_have_text("Half an")
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator(".note")).to_have_text("Stopped.")
    expect(page.locator(".stats")).to_contain_text("2 tokens")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    deadline = time.monotonic() + 5
    while not script.given_up:
        assert time.monotonic() < deadline, "the server still answers"
        time.sleep(0.01)


def test_the_limit_of_tokens_is_told(page, script, ask):
    script.answers.append([("say", "Half"), ("finish", "length")])
    ask(page, "Go")
    expect(page.locator(".note")).to_have_text("Ended at the limit of tokens.")


def test_a_second_answer_stands_beside_the_first(told, script):
    script.answers.append([("say", "Four, again.")])
    told.get_by_role("button", name="Answer again").click()
    expect(answers(told)).to_have_text("Four, again.")
    assert script.asked[1]["messages"] == script.asked[0]["messages"]
    expect(told.locator(".answer .branches")).to_have_text("2/2")
    told.get_by_role("button", name="Earlier version").click()
    expect(answers(told)).to_have_text("It is four.")
    expect(told.get_by_role("button", name="Earlier version")).to_be_disabled()
    told.reload()
    told.locator("#conversations .open").click()
    expect(answers(told)).to_have_text("It is four.")


def test_an_edited_question_begins_a_branch(told, script, ask):
    script.answers += [[("say", "Yes.")], [("say", "Six.")]]
    ask(told, "Sure?")
    expect(answers(told)).to_have_text(["It is four.", "Yes."])
    assert [m["content"] for m in script.asked[1]["messages"]] == [
        "2+2?",
        "It is **four**.",
        "Sure?",
    ]
    told.locator(".question").first.hover()
    told.get_by_role("button", name="Edit").first.click()
    box = told.get_by_role("textbox", name="Edit question")
    expect(box).to_be_focused()
    expect(box).to_have_value("2+2?")
    box.press("Escape")
    expect(told.locator(".question .text").first).to_have_text("2+2?")
    told.get_by_role("button", name="Edit").first.click()
    box.fill("3+3?")
    box.press("Enter")
    expect(answers(told)).to_have_text(["Six."])
    assert [m["content"] for m in script.asked[2]["messages"]] == ["3+3?"]
    told.get_by_role("button", name="Earlier version").click()
    expect(answers(told)).to_have_text(["It is four.", "Yes."])


def test_an_error_of_the_server_is_told_and_the_question_tried_again(page, script, ask):
    script.answers += [
        failure(503, "The queue is full. Fix: come back."),
        [("say", "OK")],
    ]
    ask(page, "Go")
    expect(page.get_by_role("alert")).to_contain_text(
        "The queue is full. Fix: come back."
    )
    expect(page.get_by_role("button", name="Copy answer")).to_be_hidden()
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_text("OK")
    expect(page.locator(".branches")).to_have_count(0)  # nothing was lost with it


def test_an_error_in_the_middle_keeps_what_came(page, script, ask):
    script.answers += [[("say", "Half an"), ("error", "The engine failed.")]]
    ask(page, "Go")
    expect(page.locator(".trouble")).to_contain_text("The engine failed.")
    expect(answers(page)).to_have_text("Half an")


def test_a_lost_connection_is_told(page, script, ask):
    cut = script.hold()
    broken = [("say", "Half an"), ("hold", cut), ("drop", None)]
    script.answers += [broken, [("say", "Whole.")]]
    ask(page, "Go")
    expect(answers(page)).to_have_text("Half an")
    cut.set()
    expect(page.locator(".trouble")).to_contain_text(
        "The connection to the server was lost."
    )
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_text("Whole.")
    expect(page.locator(".branches")).to_have_text("2/2")


def test_a_server_that_is_away_is_told_and_met_when_it_is_back(visit, url, script):
    page = visit("about:blank")
    page.route("**/v1/models", lambda route: route.abort())
    page.clock.install()
    page.goto(url)
    expect(page.locator("#banner")).to_contain_text("The server does not answer")
    page.unroute("**/v1/models")
    page.clock.run_for(4000)
    expect(page.locator("#hello")).to_have_text("R1-Recital")
    expect(page.locator("#banner")).to_be_hidden()


def test_a_device_that_is_offline_is_told_so(page):
    expect(page.locator("#hello")).to_have_text("R1-Recital")
    page.context.set_offline(True)
    expect(page.locator("#banner")).to_have_text("This device is offline.")
    page.context.set_offline(False)
    expect(page.locator("#banner")).to_be_hidden()


def test_maths_are_set_when_a_device_is_online_again(visit, url, script, ask):
    page = visit("about:blank")
    page.route("**/katex.min.js", lambda route: route.abort())
    page.goto(url)
    script.answers.append([("say", "It is $x^2$.")])
    ask(page, "Square it")
    expect(answers(page)).to_have_text(["It is x^2."])
    expect(page.locator(".katex")).to_have_count(0)
    page.unroute("**/katex.min.js")
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(page.locator(".katex")).to_have_count(1)


def test_the_key_is_asked_for_and_kept_in_the_browser(visit, url, script, ask):
    script.key = "s3cret"
    page = visit(url)
    expect(page.locator("dialog")).to_contain_text("The API key is missing or wrong.")
    page.locator("dialog input").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("dialog input")).to_have_value("wrong")  # asked again
    page.locator("dialog input").fill("s3cret")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#hello")).to_have_text("R1-Recital")
    page.reload()
    expect(page.locator("#hello")).to_have_text("R1-Recital")
    script.answers.append([("say", "Hello.")])
    script.key = "changed"
    ask(page, "Hi")
    expect(page.locator("dialog")).to_contain_text("missing or wrong")
    page.locator("dialog input").fill("changed")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text(["Hello."])
    assert page.context.cookies() == []
    assert page.evaluate("localStorage['r1jax.key']") == "changed"


def test_waiting_and_the_queue_are_told(visit, url, script, ask):
    script.waiting = 3
    go = script.hold()
    script.answers.append([("hold", go), ("say", "At last.")])
    page = visit("about:blank")
    page.clock.install()
    page.goto(url)
    ask(page, "Go")
    expect(page.locator(".answer")).to_be_visible()
    page.clock.run_for(4000)
    expect(page.locator(".wait")).to_have_text(
        re.compile(r"^Waiting for the first token, \d+ s · 3 in the queue, 8 being")
    )
    page.clock.resume()
    go.set()
    expect(answers(page)).to_have_text("At last.")
    expect(page.locator(".wait")).to_be_hidden()


def test_the_keyboard_does_it_all(page, script):
    script.answers.append([("say", "Two lines.")])
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text("Two lines.")
    assert script.asked[0]["messages"][0]["content"] == "one\ntwo"
    expect(page.locator("#status")).to_have_text("The answer is complete")
    page.keyboard.press("Control+k")
    expect(page.locator("#empty")).to_be_visible()
    page.keyboard.type("focus is where one types")
    expect(page.get_by_role("textbox", name="Question")).to_have_value(
        "focus is where one types"
    )
    page.get_by_role("textbox", name="Question").fill("")
    page.keyboard.press("Shift+Tab")
    shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert shown == "solid"


def test_enter_that_chooses_a_letter_does_not_send(page, script):
    box = page.get_by_role("textbox", name="Question")
    box.fill("かな")
    box.evaluate(
        """(box) => box.dispatchEvent(new KeyboardEvent("keydown",
            { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
    )
    expect(box).to_have_value("かな")
    assert script.asked == []


def test_two_conversations_are_answered_at_once(page, script, ask):
    go = script.hold()
    script.answers += [
        [("say", "slow"), ("hold", go), ("say", " one")],
        [("say", "quick")],
    ]
    ask(page, "First")
    expect(answers(page)).to_have_text("slow")
    page.keyboard.press("Control+k")
    ask(page, "Second")
    expect(answers(page)).to_have_text("quick")
    go.set()
    page.get_by_role("button", name="First", exact=True).click()
    expect(answers(page)).to_have_text("slow one")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
