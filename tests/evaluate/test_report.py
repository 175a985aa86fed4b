"""Results are told in a table, a file that any JSON reader takes, and a picture."""

import dataclasses
import json

from r1jax.evaluate import published, report
from r1jax.evaluate.estimates import Estimate, over_problems
from r1jax.evaluate.run import Result

ONE = Estimate(0.5, float("nan"), 0.1, 0.9)
RESULT = Result("aime", 1, 2, ONE, ONE, {1: 0.5, 2: 1.0}, 12.4, 0.5, 0.0, 3, {})


def test_the_table_sets_ours_beside_the_published_numbers():
    table = report.table([RESULT])
    assert "10.0..90.0" in table
    assert "published pass@1 of AIME 2024: R1 79.8" in table
    assert "Llama-70B 86.7" in table
    assert "3 answers could not be judged" in table
    own = dataclasses.replace(RESULT, task="gsm8k", cons_at_k=None)
    assert "published" not in report.table([own])


def test_every_published_benchmark_has_a_name():
    assert set(published.PASS_AT_1) == set(published.NAMES)
    assert set(published.CONS_AT_64) <= set(published.NAMES)


def test_the_file_is_strict_json(tmp_path):
    report.write_results(tmp_path, "model", {"seed": 0}, [RESULT])

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "results.json").read_text()
    known = json.loads(text, parse_constant=refuse)
    assert known["results"][0]["pass_at_1"]["stderr"] is None
    assert known["results"][0]["pass_at_k"] == {"1": 0.5, "2": 1.0}


def test_a_picture_of_several_tasks_is_drawn(tmp_path):
    other = dataclasses.replace(RESULT, task="gsm8k", cons_at_k=None)
    none = dataclasses.replace(other, pass_at_1=over_problems([0.0] * 50))
    every = dataclasses.replace(other, pass_at_1=over_problems([1.0] * 10))
    results = [RESULT, other, none, every]
    report.draw(tmp_path / "results.png", "folder/model", results)
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
