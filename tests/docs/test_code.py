"""What the pages show is so: code runs, flags exist, links lead somewhere."""

import ast
import re
import shlex

import pytest

import make_flags
import r1jax
from doc_blocks import FENCE, ROOT, blocks_of, run
from r1jax.train import settings

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
MORE = ("CONTRIBUTING.md", "benchmarks", "deploy", "notebooks", "r1jax/r1-nano")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"python (?:-m r1jax\.\w+|(?:tools|benchmarks|deploy)/\S+\.py)")


def named(page):
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_compiles_and_what_can_run_does(page, tmp_path, monkeypatch):
    if page == README:  # tests/test_nano.py runs it, with a model that is loaded there
        for block in blocks_of(page, "python"):
            block.compiled()
        return
    loaded = []

    def load(*args, **options):
        loaded.append(full(*args, **options))
        return loaded[-1]

    full = r1jax.load
    monkeypatch.setattr(r1jax, "load", load)
    monkeypatch.chdir(tmp_path)
    try:
        run(page)
    finally:
        for llm in loaded:
            llm.close()


def test_no_reason_is_empty_and_none_stands_alone():
    for page in PAGES:
        said = page.read_text(encoding="utf-8").count("<!-- not run")
        reasons = [b.reason for b in blocks_of(page, "python") if b.reason is not None]
        assert said == len(reasons), f"{page}: `not run` is not just before a fence"
        assert all(reason.strip() for reason in reasons), page


def logical_lines(text):
    return text.replace("\\\n", " ").splitlines()


def shell_lines(page):
    """Yields the lines of sh blocks, of indented blocks, and commands in the text."""
    text = page.read_text(encoding="utf-8")
    for block in blocks_of(page, "sh", "bash"):
        yield from logical_lines(block.text)
    outside = FENCE.sub("", text)
    indented = re.findall(r"(?:^    .*\n)+", outside, re.M)
    for found in indented:
        yield from (line.strip() for line in logical_lines(found))
    for span in re.findall(r"`([^`]+)`", outside):
        yield " ".join(span.split())


def commands(line):
    """Yields each of our commands in a line, as its name and its words."""
    for start in COMMAND.finditer(line):
        rest = shlex.split(line[start.end() :], comments=True)
        words = []
        for word in rest:
            if word in ("&&", "||", "|", ";", "&", "--", "..."):
                break
            words.append(word)
        yield start[0], words


def every_command():
    return [
        (page, name, words)
        for page in [*PAGES, *more_pages()]
        for line in shell_lines(page)
        for name, words in commands(line)
    ]


def more_pages():
    for name in MORE:
        path = ROOT / name
        yield from [path] if path.suffix else sorted(path.glob("*.md"))


def test_all_flags_exist():
    found = every_command()
    assert len(found) > 50
    for page, name, words in found:
        flags = [w.partition("=")[0] for w in words if w.startswith("--") and w != "--"]
        if name in make_flags.PARSERS:
            known = all_flags(make_flags.PARSERS[name]()) | {"--help"}
        else:
            script = ROOT / name.split()[-1]
            assert script.exists(), f"{page}: {name}"
            known = set(re.findall(r'"(--[\w-]+)"', script.read_text(encoding="utf-8")))
        assert set(flags) <= known, f"{page}: {name} {' '.join(words)}"


def all_flags(parser):
    own = {flag for a in make_flags.actions(parser) for flag in a.option_strings}
    return own.union(*map(all_flags, make_flags.verbs(parser).values()))


def test_whole_commands_are_understood():
    understood = 0
    for page in PAGES:
        for block in blocks_of(page, "sh"):
            for line in logical_lines(block.text):
                for name, words in commands(line):
                    if name in make_flags.PARSERS:
                        understood += 1
                        args = make_flags.PARSERS[name]().parse_args(words)
                        if name.endswith("train"):
                            settings.load(str(ROOT / args.config), args.set)
    assert understood > 20


@pytest.mark.parametrize("page", [*PAGES, *more_pages()], ids=named)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert target.is_relative_to(ROOT), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}"


def anchors(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


def test_pages_that_the_code_names_exist():
    sources = [
        p for d in ("r1jax", "tools", "deploy") for p in (ROOT / d).rglob("*.py")
    ]
    for source in sources:
        for name in re.findall(
            r"(?<!ggml's )docs/[\w-]+\.md", source.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{source}: {name}"


def patterns_of(call):
    """Returns what a call's texts look like, anything where values stand."""
    return [
        "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+"
            for part in (arg.values if isinstance(arg, ast.JoinedStr) else [arg])
        )
        for arg in call.args[:3]
    ]


def errors_of_the_code():
    """Lists the errors that say what, why and how to fix it, as patterns."""
    found = []
    for source in (ROOT / "r1jax").rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        if "Error(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and len(node.args) == 3:
                parts = patterns_of(node)
                if sum(len(p.replace(".+", "")) for p in parts[:2]) > 20:
                    found.append(parts)
    return found


def test_errors_that_are_quoted_are_the_codes_own():
    known = errors_of_the_code()
    quoted = [b for page in PAGES for b in blocks_of(page, "text") if "why: " in b.text]
    assert len(quoted) > 8
    for block in quoted:
        what, why, fix = block.text.rstrip("\n").split("\n")
        lines = [what, why.removeprefix("  why: "), fix.removeprefix("  fix: ")]
        assert any(all(map(re.fullmatch, parts, lines)) for parts in known), (
            f"{block}: no error reads so"
        )
