"""How the page behaves on screens, in themes, and while it grows."""

from playwright.sync_api import expect

PHONE = {"width": 360, "height": 640}
WIDE = r"""
A very_long_word_{} and a table:

| a | b | c | d | e | f | g | h |
|---|---|---|---|---|---|---|---|
| 1111111 | 2222222 | 3333333 | 4444444 | 5555555 | 6666666 | 7777777 | 8 |

```python
{}
```

\[ {} \]
""".format("x" * 200, "y = " + "1 + " * 60 + "1", "x + " * 60 + "1")


def background(page):
    return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def distance(page):
    """Pixels from the end of the conversation."""
    return page.locator("#scroller").evaluate(
        "(s) => s.scrollHeight - s.scrollTop - s.clientHeight"
    )


def test_a_phone_shows_it_all_without_scrolling_sideways(visit, url, script, ask):
    page = visit(url, viewport=PHONE, has_touch=True)
    expect(page.locator("#hello")).to_have_text("R1-Recital")
    box = page.locator("#hello").bounding_box()
    assert box["y"] > 0  # the greeting is not cut off above
    expect(page.locator("#sidebar")).to_be_hidden()
    script.answers.append([("say", WIDE)])
    ask(page, "w" * 300)
    expect(page.locator(".stats")).not_to_be_empty()
    expect(page.locator(".katex-display")).to_have_count(1)
    wide = """() => ["body", "main", "#scroller", "#log", ".prose"]
        .map((name) => document.querySelector(name))
        .filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.tagName)"""
    assert page.evaluate(wide) == []
    page.get_by_role("button", name="Conversations").click()
    expect(page.locator("#sidebar")).to_be_visible()
    page.locator("#conversations .open").click()
    expect(page.locator("#sidebar")).to_be_hidden()
    page.get_by_role("button", name="Settings").click()
    save = page.get_by_role("button", name="Save")
    save.scroll_into_view_if_needed()
    expect(save).to_be_in_viewport()


def test_the_theme_is_the_systems_until_it_is_switched(visit, url):
    page = visit(url, color_scheme="dark")
    dark = background(page)
    page.emulate_media(color_scheme="light")
    light = background(page)
    assert dark == "rgb(22, 23, 25)"
    assert light == "rgb(253, 253, 251)"
    switch = page.get_by_role("button", name="Dark or light")
    switch.click()
    assert background(page) == dark
    page.reload()
    assert background(page) == dark
    page.get_by_role("button", name="Dark or light").click()
    assert background(page) == light
    page.emulate_media(color_scheme="dark")
    assert background(page) == dark  # follows the system again


def test_words_stand_out_from_their_ground_in_both_themes(page):
    contrast = """() => {
        const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
                const c = part / 255;
                return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const probe = document.createElement("i");
        document.body.append(probe);
        const named = (name) => {
            probe.style.color = `var(--${name})`;
            return light(getComputedStyle(probe).color);
        };
        const pairs = [["ink", "paper"], ["ink", "soft"], ["quiet", "paper"],
            ["quiet", "side"], ["accent", "tint"], ["on-accent", "accent"],
            ["bad", "bad-tint"]];
        return pairs.map(([one, other]) => {
            const [high, low] = [named(one), named(other)].sort((a, b) => b - a);
            return [one, other, (high + 0.05) / (low + 0.05)];
        });
    }"""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for one, other, ratio in page.evaluate(contrast):
            assert ratio >= 4.5, (theme, one, other)  # WCAG 2, AA


def test_nothing_moves_for_whoever_asked_for_that(visit, url, script, ask):
    page = visit(url, reduced_motion="reduce")
    script.answers.append([("think", "Hm"), ("hold", script.hold())])
    ask(page, "Go")
    expect(page.locator(".thought")).to_have_text("Hm")
    moving = "document.getAnimations().filter((a) => a.playState === 'running').length"
    assert page.evaluate(moving) == 0


def test_the_end_is_followed_until_the_reader_scrolls_up(page, script, ask):
    first, second = script.hold(), script.hold()
    lines = "\n\n".join(f"Line {i}" for i in range(60))
    more = "\n\n" + "\n\n".join(f"More {i}" for i in range(60))
    script.answers.append(
        [("say", lines), ("hold", first), ("say", more), ("hold", second), ("say", "!")]
    )
    ask(page, "Go")
    expect(page.get_by_text("Line 59")).to_be_in_viewport()
    assert distance(page) < 2
    page.locator("#scroller").hover()
    page.mouse.wheel(0, -400)
    end = page.get_by_role("button", name="Jump to the end")
    expect(end).to_be_visible()
    top = page.locator("#scroller").evaluate("(s) => s.scrollTop")
    first.set()
    expect(page.get_by_text("More 59")).to_be_attached()
    assert page.locator("#scroller").evaluate("(s) => s.scrollTop") == top
    end.click()
    expect(page.get_by_text("More 59")).to_be_in_viewport()
    expect(end).to_be_hidden()
    second.set()
    expect(page.locator(".stats")).to_be_in_viewport()
    assert distance(page) < 2
