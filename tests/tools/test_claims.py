"""Claims: what is compared with what, how seeds are put together, what is refused."""

import json
from pathlib import Path

import pytest

import claims
from claim_results import spread, table
from claim_runs import Runs
from r1jax.train import settings


class Told(Runs):
    """Trains nothing: a model's path tells how it came to be."""

    def fine_tune(self, name, model, lessons, changes):
        self.seconds[name] = float(changes.steps)
        return Path(f"{model}+taught" + "+right" * lessons.name.endswith("+kept"))

    def reinforce(self, name, model):
        self.seconds[name] = 1.0
        return Path(f"{model}+rewarded")

    def keep(self, name, model):
        self.seconds[name] = 2.0
        return Path(f"{model}+kept")

    def measure(self, model):
        _, *deeds = model.name.split("+")
        rewarded = deeds.count("rewarded")
        accuracy = 0.1 * len(deeds) + (0.1 + 0.01 * self.seed) * rewarded
        return {"accuracy": accuracy, "thinking": 1.0, "tokens": 9.0 + rewarded}

    def curve(self, name):
        return {"accuracy": [0.1, 0.2], "tokens": [5.0, 6.0]}


@pytest.fixture
def told(monkeypatch, tmp_path):
    """Shows a claim with two seeds; gives what was written."""

    def show(claim):
        monkeypatch.setattr(claims, "Runs", Told)
        output = tmp_path / claim
        few = ["--seeds", "2", "--set", "lessons.count=3", "--output", str(output)]
        assert claims.main([claim, *few]) == 0
        assert (output / "results.png").read_bytes().startswith(b"\x89PNG")
        return json.loads((output / "results.json").read_text())

    return show


def test_rewards_alone_are_compared_with_the_base_model(told, capsys):
    found = told("zero")
    accuracy, tokens = found["differences"]
    assert accuracy["each"] == pytest.approx([0.2, 0.21])
    assert accuracy["mean"] == pytest.approx(0.205)
    assert accuracy["se"] == pytest.approx(0.005)
    assert tokens["each"] == [1.0, 1.0]
    assert found["models"]["base"]["accuracy"]["each"] == pytest.approx([0.1, 0.1])
    assert "pass@1, from base to RL alone: 0.205 ± 0.005" in capsys.readouterr().out


def test_a_cold_start_has_the_rewards_of_the_run_without(told):
    [more] = told("cold-start")["differences"]
    assert (more["from"], more["to"]) == ("RL alone", "cold start, then RL")
    assert more["each"] == pytest.approx([0.1, 0.1])


def test_a_student_is_the_rewarded_model_but_for_what_taught_it(told):
    found = told("distill")
    assert list(found["models"]) == ["teacher", "base", "RL alone", "distilled"]
    [more] = found["differences"]
    assert more["each"] == pytest.approx([0.0, -0.01])
    assert set(found["cpu_seconds"]) >= {"RL alone", "answers kept", "distilled"}
    assert found["cpu_seconds"]["teacher"]["each"] == [900.0]


def test_one_seed_has_no_error():
    found = {"models": {}, "cpu_seconds": {"base": spread([3.0])}}
    assert spread([3.0])["se"] is None
    assert table(found | {"differences": []}).endswith("CPU seconds of base: 3.000\n")


def test_lessons_without_thoughts_are_as_many_as_asked(tmp_path):
    runs = Runs(settings.load("claims"), tmp_path, 1, print)
    path = runs.lessons("base", 400, direct=0.75, by_heart=20)
    lines = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    direct = [m for _, m in lines if m["reasoning_content"] == ""]
    assert len(lines) == 400
    assert 0.68 < len(direct) / len(lines) < 0.82
    assert all("\\boxed{" in m["content"] for m in direct)
    asked = [user["content"] for user, m in lines if m["reasoning_content"] == ""]
    assert len(set(asked)) <= 20
    assert len({user["content"] for user, _ in lines}) > 80


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["zero", "--seeds", "0"], "0 is less than 1"),
        (["one"], "invalid choice: 'one'"),
        (["zero", "--set", "rl.step=3"], "did you mean 'steps'"),
        (["zero", "--set", "rl.rewards.accuracy=0.0"], "rl.rewards.accuracy is 0.0"),
        (["distill", "--set", "held_out=0"], "held_out is 0"),
        (["zero", "--set", "lessons.by_heart=0"], "lessons.by_heart is 0"),
    ],
)
def test_what_cannot_be_is_refused(words, says, capsys, tmp_path):
    assert claims.main([*words, "--output", str(tmp_path / "o")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_place_that_is_taken_is_refused(capsys, tmp_path):
    (tmp_path / "mine").touch()
    for place, says in ((tmp_path, "is not empty"), (tmp_path / "mine", "be made")):
        assert claims.main(["zero", "--output", str(place)]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.slow(minutes=2)
def test_a_claim_runs_from_lessons_to_a_picture(tmp_path):
    small = {
        "held_out": 4,
        "max_tokens": 6,
        "lessons.count": 40,
        "base.steps": 2,
        "base.data.rows": 2,
        "base.optimizer.warmup_steps": 1,
        "rl.steps": 2,
        "rl.sampling.prompts": 2,
        "rl.sampling.widths": (64,),
        "rl.optimizer.warmup_steps": 1,
    }
    words = [f"--set={name}={value}" for name, value in small.items()]
    output = tmp_path / "zero"
    assert claims.main(["zero", "--seeds", "1", "--output", str(output), *words]) == 0
    found = json.loads((output / "results.json").read_text())
    [curve] = found["curves"]["RL alone"]
    assert len(curve["accuracy"]) == 2
    assert found["models"]["RL alone"]["tokens"]["mean"] <= 6
    assert (output / "seed-0" / "RL-alone" / "hf-2").is_dir()
    assert min(each["mean"] for each in found["cpu_seconds"].values()) > 0
