"""Conversations stay in the browser: found, renamed, deleted, brought back, carried."""

import json

import pytest
from playwright.sync_api import expect


def titles(page):
    return page.locator("#conversations .open")


@pytest.fixture
def talk(script, ask):
    """Begins a new conversation with a question."""

    def talk(page, question, answer="Yes."):
        page.keyboard.press("Control+k")
        pause = script.hold()  # or the answer may come too fast for a speed
        script.answers.append([("think", "Hm."), ("hold", pause), ("say", answer)])
        ask(page, question)
        page.wait_for_timeout(50)
        pause.set()
        expect(page.locator(".stats")).not_to_be_empty()

    return talk


def test_conversations_outlast_the_page(page, talk):
    talk(page, "Is water wet?", "It is **wet**.")
    talk(page, "Is the sky blue?")
    page.reload()
    expect(titles(page)).to_have_text(["Is the sky blue?", "Is water wet?"])
    titles(page).last.click()
    expect(page.locator(".question .text")).to_have_text("Is water wet?")
    expect(page.locator(".answer > .prose strong")).to_have_text("wet")
    expect(page.locator(".stats")).to_contain_text("tokens/s")
    expect(titles(page).last).to_have_attribute("aria-current", "true")
    page.locator("summary").click()
    expect(page.locator(".thought")).to_have_text("Hm.")


def test_what_had_come_when_the_page_was_closed_is_kept(page, script, ask):
    script.answers.append([("say", "Half an answer"), ("hold", script.hold())])
    ask(page, "Go")
    expect(page.locator(".answer > .prose")).to_have_text("Half an answer")
    page.reload()
    titles(page).click()
    expect(page.locator(".answer > .prose")).to_have_text("Half an answer")
    expect(page.locator(".note")).to_have_text("Stopped.")


def test_two_tabs_go_on_from_one_another(page, url, script, ask, talk):
    talk(page, "One")
    other = page.context.new_page()
    other.goto(url)
    titles(other).click()
    for tab, question in ((page, "Two"), (other, "Three")):
        script.answers.append([("say", "Yes.")])
        ask(tab, question)
        for each in (page, other):
            shown = each.locator(".question .text").last
            expect(shown).to_have_text(question)
            expect(each.locator(".stats").last).not_to_be_empty()
    page.reload()
    titles(page).click()
    expect(page.locator(".question .text")).to_have_text(["One", "Two", "Three"])


def test_a_conversation_is_renamed(page, talk):
    talk(page, "Question one")
    page.locator("#conversations li").hover()
    page.get_by_role("button", name="Rename").click()
    page.keyboard.type("<b>Wet</b>")
    page.keyboard.press("Escape")
    expect(titles(page)).to_have_text("Question one")
    page.locator("#conversations li").hover()
    page.get_by_role("button", name="Rename").click()
    page.keyboard.type("<b>Wet</b>")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text("<b>Wet</b>")
    page.reload()
    expect(titles(page)).to_have_text("<b>Wet</b>")


def test_deleting_can_be_undone(page, talk):
    talk(page, "Keep me")
    talk(page, "Delete me", "All of it.")
    page.locator("#conversations li").first.hover()
    page.get_by_role("button", name="Delete “Delete me”").click()
    expect(titles(page)).to_have_text(["Keep me"])
    expect(page.locator("#empty")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(titles(page)).to_have_text(["Delete me", "Keep me"])
    titles(page).first.click()
    expect(page.locator(".answer > .prose")).to_have_text("All of it.")
    page.locator("#conversations li").first.hover()
    page.get_by_role("button", name="Delete “Delete me”").click()
    expect(page.locator(".toast")).to_be_visible()
    page.reload()
    expect(titles(page)).to_have_text(["Keep me"])


def test_deleting_stops_the_answer_and_nothing_comes_back(page, script, ask):
    go = script.hold()
    script.answers.append([("say", "so"), ("hold", go), ("say", " far")])
    ask(page, "Go")
    expect(page.locator(".answer > .prose")).to_have_text("so")
    page.locator("#conversations li").first.hover()
    page.get_by_role("button", name="Delete “Go”").click()
    go.set()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator(".toast")).to_be_visible()  # it is gone from the database
    page.reload()
    expect(page.locator("#conversations")).to_have_text("No conversations yet")


def test_conversations_are_searched_by_their_words(page, talk):
    talk(page, "About cats", "They purr.")
    talk(page, "About dogs", "They bark.")
    search = page.get_by_role("searchbox", name="Search conversations")
    search.fill("PURR")
    expect(titles(page)).to_have_text(["About cats"])
    search.fill("nothing like it")
    expect(page.locator("#conversations")).to_have_text("Nothing found")
    search.fill("")
    expect(titles(page)).to_have_count(2)


def test_an_export_is_imported_elsewhere(page, visit, url, talk):
    talk(page, "Carry me", "Gladly.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename.startswith("r1jax-conversations-20")
    other = visit(url)
    other.locator("#import-file").set_input_files(download.value.path())
    expect(other.locator(".toast")).to_have_text("Imported 1 conversation")
    titles(other).click()
    expect(other.locator(".answer > .prose")).to_have_text("Gladly.")
    other.reload()
    expect(titles(other)).to_have_text("Carry me")


def conversation(*messages, **fields):
    return {"title": "T", "head": "b", "messages": list(messages), **fields}


QUESTION = {"id": "a", "parent": None, "role": "user", "content": "Q"}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("{", "the file is not JSON"),
        ([], "does not hold conversations of this page"),
        ({"format": "r1jax-conversations", "version": 2, "conversations": []}, "2"),
        ([{"title": "x"}], "has no messages"),
        ([conversation({**QUESTION, "role": "system"})], "has no role"),
        ([conversation({**QUESTION, "id": 7})], "has no id"),
        ([conversation(QUESTION, QUESTION)], "do not follow one another"),
        ([conversation({**QUESTION, "parent": "z"})], "do not follow one another"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(workbench, value, complaint):
    if isinstance(value, list) and value:
        value = {"format": "r1jax-conversations", "version": 1, "conversations": value}
    text = value if isinstance(value, str) else json.dumps(value)
    said = workbench.evaluate(
        """async ([base, text]) => {
            const { fromJson } = await import(base + "conversation.js");
            try { return fromJson(text); } catch (error) { return error.message; }
        }""",
        [workbench.base, text],
    )
    assert complaint in said


def test_an_import_keeps_known_fields_alone(workbench):
    answer = {
        "id": "b",
        "parent": "a",
        "role": "assistant",
        "content": 7,
        "reasoning": None,
        "stats": {"first": 1, "prompt": "<b>"},
        "finish": "evil",
        "evil": True,
    }
    value = {
        "format": "r1jax-conversations",
        "version": 1,
        "conversations": [conversation(QUESTION, answer, id="mine", evil=True)],
    }
    [read] = workbench.evaluate(
        """async ([base, text]) =>
            (await import(base + "conversation.js")).fromJson(text)""",
        [workbench.base, json.dumps(value)],
    )
    assert read.pop("id") != "mine"
    assert read.pop("updated") > 1e12
    assert read == {
        "title": "T",
        "head": "b",
        "messages": [
            QUESTION,
            {
                "id": "b",
                "parent": "a",
                "role": "assistant",
                "content": "",
                "reasoning": "",
                "finish": "stopped",
                "stats": {"first": 1},
            },
        ],
    }


FILL = """async ([base, count]) => {
    const { MOST, Store } = await import(base + "store.js");
    const store = await new Store().open();
    for (let i = 0; i < (count ?? MOST); i += 1) {
        await store.put({ id: `${i}`, title: `T${i}`, updated: i, messages: [] });
    }
    return MOST;
}"""


def test_a_full_store_says_so_and_loses_nothing(page, script, ask):
    main = page.locator("script[type=module]")
    base = main.evaluate("(script) => new URL('.', script.src).href")
    most = page.evaluate(FILL, [base])
    script.answers.append([("say", "Still answered.")])
    ask(page, "One too many")
    expect(page.locator(".answer > .prose")).to_have_text("Still answered.")
    expect(page.locator(".toast")).to_have_text(
        f"Not saved. {most} conversations are kept, and no more can be:"
        " delete conversations, or export them first."
    )
    expect(titles(page)).to_have_count(most)


def test_a_browser_without_room_says_so_and_keeps_what_was(workbench):
    said = workbench.evaluate(
        """async ([base]) => {
            const { Store } = await import(base + "store.js");
            const store = await new Store().open();
            await store.put({ id: "x", title: "before", updated: 1, messages: [] });
            const put = IDBObjectStore.prototype.put;
            IDBObjectStore.prototype.put = () => {
                throw new DOMException("full", "QuotaExceededError");
            };
            try {
                await store.put({ id: "x", title: "after", updated: 2, messages: [] });
            } catch (error) {
                return [error.message, (await store.get("x")).title];
            } finally {
                IDBObjectStore.prototype.put = put;
                await store.remove("x");
            }
        }""",
        [workbench.base],
    )
    why = "The browser has no room left for this page"
    assert said == [f"{why}: delete conversations, or export them first.", "before"]


def test_a_browser_that_keeps_nothing_is_told_and_works(visit, url, script, ask):
    page = visit("about:blank")
    page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: null })")
    page.goto(url)
    expect(page.locator(".toast")).to_contain_text("keeps nothing for this page")
    script.answers.append([("say", "Yes.")])
    ask(page, "Works?")
    expect(page.locator(".answer > .prose")).to_have_text("Yes.")
    expect(titles(page)).to_have_text("Works?")
