"""What a model writes, as it is shown: markdown, maths, code, and nothing that runs."""

import random
from pathlib import Path

import pytest
from playwright.sync_api import expect

HERE = Path(__file__).parent
DOCUMENTS = {path.stem: path.read_text() for path in HERE.glob("texts/*.md")}
GROW = """async ([base, text, cuts]) => {
    const { GrowingProse } = await import(base + "render.js");
    const { loadWardrobe } = await import(base + "dress.js");
    await (window.wardrobe ??= loadWardrobe());
    const whole = new GrowingProse(document.createElement("div"));
    while (!whole.show(text, true, Infinity));
    const grown = new GrowingProse(document.createElement("div"));
    for (const cut of cuts) while (!grown.show(text.slice(0, cut), false, Infinity));
    while (!grown.show(text, true, Infinity));
    return [grown.element.innerHTML, whole.element.innerHTML];
}"""
EVIL = (HERE / "evil.md").read_text()


def said(page, script, ask, text):
    """Lets the server answer with a text; gives the element that shows it."""
    script.answers.append([("say", text)])
    ask(page, "Go on")
    expect(page.locator(".stats").last).not_to_be_empty()
    expect(page.locator(".maths:not(.set)")).to_have_count(0)
    return page.locator(".answer > .prose").last


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_a_growing_text_becomes_what_the_whole_text_is(workbench, name):
    text = DOCUMENTS[name]
    every = list(range(1, len(text)))
    chosen = random.Random(name).sample(every, len(every) // 6)
    for cuts in (every, sorted(chosen)):
        grown, whole = workbench.evaluate(GROW, [workbench.base, text, cuts])
        assert grown == whole
    assert whole


def test_a_long_text_in_slices_becomes_the_same(workbench):
    text = "\n\n".join([*DOCUMENTS.values()] * 12)
    text += "\n\n```\n" + "a line of code\n" * 2000 + "```\n\nend"  # past the window
    cuts = list(range(1500, len(text), 1500))
    grown, whole = workbench.evaluate(GROW, [workbench.base, text, cuts])
    assert grown == whole


def test_every_slice_goes_on_however_little_its_time(workbench):
    text = "".join(f"{i}. item\n" for i in range(4000)) + "\n" + "word " * 10_000
    slices, items = workbench.evaluate(
        """async ([base, text]) => {
            const { GrowingProse } = await import(base + "render.js");
            const prose = new GrowingProse(document.createElement("div"));
            let slices = 1;
            while (!prose.show(text, true, 0) && slices < 100) slices += 1;
            return [slices, prose.element.querySelectorAll("li").length];
        }""",
        [workbench.base, text],
    )
    assert items == 4000
    assert 1 < slices < 100


def test_what_is_nested_too_deeply_is_shown_as_written(page, script, ask):
    for opening in (">", "- ", "**[", "\\["):
        prose = said(page, script, ask, f"{opening * 3000} deep")
        expect(prose).to_contain_text("deep")


def test_blocks_that_are_finished_stay(workbench):
    kept = workbench.evaluate(
        """async ([base]) => {
            const { GrowingProse } = await import(base + "render.js");
            const prose = new GrowingProse(document.createElement("div"));
            const lines = ["first", "", "- a", "- b"];
            prose.show(lines.join("\\n"), false);
            const [first, list] = prose.element.children;
            const item = list.children[0];
            prose.show([...lines, "- c", "", "last"].join("\\n"), false);
            const now = [...prose.element.children];
            return [now[0] === first, now[1] === list, now[1].children[0] === item,
                    now[1].children.length, now.length];
        }""",
        [workbench.base],
    )
    assert kept == [True, True, True, 3, 3]


def test_a_very_long_text_is_made_but_once(workbench):
    made, shown = workbench.evaluate(
        """async ([base, text]) => {
            const { GrowingProse } = await import(base + "render.js");
            const prose = new GrowingProse(document.createElement("div"));
            let made = 0;
            const observer = new MutationObserver(() => {});
            observer.observe(prose.element, { childList: true, subtree: true });
            for (let end = 100; end < text.length; end += 100) {
                prose.show(text.slice(0, end), false);
                observer.takeRecords().forEach((r) => { made += r.addedNodes.length; });
            }
            return [made, prose.element.querySelectorAll("*").length];
        }""",
        [workbench.base, "\n\n".join([*DOCUMENTS.values()] * 100)],
    )
    assert shown > 5000
    assert made < 2 * shown  # again at every step would be hundreds of times


def test_nothing_that_a_model_writes_runs_or_reaches_anybody(page, script, ask, url):
    asked, dialogs, opened = [], [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.context.on("page", lambda other: opened.append(other.url))
    for text in (EVIL, EVIL.replace("\n", "\n\n"), f"- {EVIL}"):
        prose = said(page, script, ask, text)
        for target in prose.locator("a").all():
            assert target.get_attribute("href").startswith("https://")
            assert target.get_attribute("rel") == "noopener noreferrer nofollow"
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.dataset.hacked") is None
    assert dialogs == opened == []
    assert [address for address in asked if not address.startswith(url)] == []
    banned = (
        "script, img, iframe, object, embed, form, style, link, base, meta, button.x"
    )
    assert page.locator(".prose").locator(banned).count() == 0
    loose = """() => [...document.querySelectorAll(".prose *")]
        .flatMap((element) => [...element.attributes].map(({ name }) => name))
        .filter((name) => /^on/.test(name))"""
    assert page.evaluate(loose) == []
    assert page.locator("#log").count() == 1
    expect(prose).to_contain_text("<script>document.documentElement.dataset.hacked = 1")


def test_evil_thoughts_and_questions_and_titles_are_text_too(page, script, ask, url):
    script.answers.append([("think", EVIL), ("say", "Well.")])
    ask(page, "<img src=x onerror=alert(1)> **bold** $x$")
    expect(page.locator(".stats")).not_to_be_empty()
    page.get_by_text("Thought for").click()
    expect(page.locator(".thought")).to_contain_text("dataset.hacked = 1")
    expect(page.locator(".question .text")).to_have_text(
        "<img src=x onerror=alert(1)> **bold** $x$"
    )
    assert (
        page.locator(".question *, #sidebar *").filter(has=page.locator("img")).count()
        == 0
    )
    assert page.evaluate("document.documentElement.dataset.hacked") is None


def test_the_policy_itself_stops_what_would_get_past_all_that(page):
    seen = page.evaluate(
        """() => {
            const box = document.createElement("div");
            try { box.innerHTML = "<img src=x>"; return "taken"; }
            catch (error) { return error.name; }
        }"""
    )
    assert seen == "TypeError"  # trusted types
    with page.expect_console_message(lambda message: "inline" in message.text):
        page.evaluate(
            """() => {
                const script = document.createElement("script");
                try { script.text = "document.documentElement.dataset.hacked = 1"; }
                catch { script.append("document.documentElement.dataset.hacked = 1"); }
                document.body.append(script);
                document.body.setAttribute("style", "color: red");
            }"""
        )
    assert page.evaluate("document.documentElement.dataset.hacked") is None


def test_maths_is_set_and_what_cannot_be_is_shown_as_written(page, script, ask):
    prose = said(
        page, script, ask, r"So \(x^2\), then \[\frac{a}{b}\] and $\nonsense{x}$."
    )
    expect(prose.locator(".katex")).to_have_count(3)
    expect(prose.locator(".katex-display")).to_have_count(1)
    expect(prose.locator("math")).to_have_count(3)  # for screen readers
    expect(prose).to_contain_text("\\nonsense")


def test_code_is_coloured_and_copied(visit, url, script, ask):
    page = visit(url, permissions=["clipboard-read", "clipboard-write"])
    code = "def f(x):\n    return x < 1  # a & b"
    prose = said(page, script, ask, f"Use **this**:\n\n```python\n{code}\n```\n")
    expect(prose.locator(".hljs-keyword").first).to_have_text("def")
    prose.get_by_role("button", name="Copy code").click()
    expect(page.locator("#status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == code
    page.get_by_role("button", name="Copy answer").click()
    page.wait_for_function(
        "navigator.clipboard.readText().then((t) => t.startsWith('Use'))"
    )
    assert "```python" in page.evaluate("navigator.clipboard.readText()")


def test_copying_works_over_plain_http_too(page, script, ask):
    prose = said(page, script, ask, "```\nplain\n```")
    page.evaluate("Object.defineProperty(window, 'isSecureContext', { value: false })")
    prose.get_by_role("button", name="Copy code").click()
    expect(page.locator("#status")).to_have_text("Copied")
    assert page.locator("textarea.offscreen").count() == 0
