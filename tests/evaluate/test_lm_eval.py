"""lm-eval, an outside harness, can be pointed at the server."""

import json
import os
import shutil
import subprocess

import pytest

from serve.conftest import (  # noqa: F401 (fixtures)
    folder_of_words,
    plain_llm,
    running,
    tokenizer,
)

# In an environment of its own: LM_EVAL names the command.
LM_EVAL = os.environ.get("LM_EVAL") or shutil.which("lm-eval")

TASK = """\
task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: []
  max_gen_toks: 32
filter_list:
  - name: number
    filter:
      - function: regex
        regex_pattern: "is (\\\\d+)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


@pytest.mark.slow(minutes=1)
@pytest.mark.skipif(LM_EVAL is None, reason="lm-eval is not installed: set LM_EVAL")
def test_lm_eval_scores_the_server(tmp_path, plain_llm):  # noqa: F811
    data = tmp_path / "sums.jsonl"
    rows = [{"question": "1+1?", "answer": "2"}, {"question": "1+2?", "answer": "3"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(TASK.format(data=data))
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": ""}
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", *offline)}
    with running(plain_llm) as site:
        arguments = f"base_url={site.url}/v1/chat/completions,model=recital"
        command = [LM_EVAL, "run", "--model", "local-chat-completions", "--tasks"]
        command += ["sums", "--include_path", tmp_path, "--model_args", arguments]
        command += ["--apply_chat_template", "--output_path", tmp_path / "out"]
        ran = subprocess.run(
            command, env=kept | offline, capture_output=True, text=True, check=False
        )
    assert ran.returncode == 0, ran.stderr[-3000:]
    [results] = (tmp_path / "out").rglob("results*.json")
    scores = json.loads(results.read_text())["results"]["sums"]
    assert scores["exact_match,number"] == 0.5  # the recital always says 2
