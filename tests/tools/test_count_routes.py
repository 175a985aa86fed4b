"""The counter's command line: counts that load reads, or three lines and code 2."""

import json

import pytest

import count_routes
from golden_files import golden
from r1jax.weights import open_source, read_expert_loads

SOURCE = golden("deepseek_plain").directory


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the tool on some lines; gives its exit code and what it said."""

    def tool(*lines, source=SOURCE):
        file, output = tmp_path / "lines.jsonl", tmp_path / "loads.json"
        file.write_text("".join(f"{line}\n" for line in lines))
        names = {"--input": source, "--sequences": file, "--output": output}
        code = count_routes.main([str(part) for item in names.items() for part in item])
        return code, capsys.readouterr(), output

    return tool


def test_writes_counts_that_load_reads(run):
    code, said, output = run(json.dumps([3, 4, 5]), json.dumps([6, 7]))
    assert (code, said.err) == (0, "")
    assert said.out.startswith("5 tokens of 2 sequences; the busiest expert")
    config = open_source(SOURCE).config
    assert config.moe is not None
    loads = read_expert_loads(output, config)
    assert (loads.sum(1) == 5 * config.moe.experts_per_token).all()


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ((), "is empty"),
        (("[1, 2]", "what is this"), "line 2: what is this"),
        (("[1, 2.5]",), "line 1"),
        (("[1, 96]",), "token id 96"),
        (("[]",), "the prompt is empty"),
    ],
)
def test_what_is_no_sequence_is_refused(run, lines, what):
    code, said, output = run(*lines)
    assert code == 2
    assert what in said.err
    assert "fix: " in said.err
    assert not output.exists()


def test_a_file_that_cannot_be_read_is_refused(capsys, tmp_path):
    (tmp_path / "latin").write_bytes(b"\xe4")
    for name, why in (("nowhere", "No such file"), ("latin", "not text in UTF-8")):
        names = ["--input", "x", "--output", "y", "--sequences", str(tmp_path / name)]
        assert count_routes.main(names) == 2
        assert why in capsys.readouterr().err


def test_a_dense_model_is_refused(run):
    code, said, _ = run("[1]", source=golden("qwen3").directory)
    assert (code, said.out) == (2, "")
    assert "the model is dense" in said.err
