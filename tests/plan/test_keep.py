"""A server finds all that the planner has compiled for it."""

import subprocess
import sys

import pytest

from golden_files import ROOT

# Plans and keeps, then loads with the flags that it was told, and lists new programs.
SCRIPT = """
import contextlib, io, shlex, sys
from pathlib import Path
import jax
from r1jax.plan.__main__ import main
source, folder, data, tensor = sys.argv[1:]
said = io.StringIO()
with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
    code = main([source, "--topology", f"cpu:{int(data) * int(tensor)}",
        "--data-parallel-size", data, "--tensor-parallel-size", tensor,
        "--dtype", "float32", "--batch", "4", "--context", "64", "--chunk", "32",
        "--page-size", "16", "--compilation-cache", folder])
assert code == 0, said.getvalue()
words = shlex.split(said.getvalue().splitlines()[-1].split(source)[1])
flags = dict(zip(words[::2], words[1::2]))
def steps():
    names = [p.name for p in Path(folder).iterdir() if not p.name.endswith("atime")]
    return {n for n in names if n.startswith(
        ("jit_run_step", "jit_count_tokens", "jit_write_masks", "jit_write_biases"))}
kept = steps()
import r1jax
options = {k[2:].replace("-", "_"): int(v) for k, v in flags.items() if v.isdigit()}
mesh = r1jax.make_mesh(options.pop("data_parallel_size"),
    options.pop("tensor_parallel_size"))
llm = r1jax.load(source, mesh=mesh, dtype="float32", strategy=flags["--strategy"],
    **options)
llm.engine.wait_until_compiled()
llm.close()
print(len(kept), len(steps() - kept))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "tensor"),
    [
        ("qwen3", 1, 2),
        ("deepseek_plain", 2, 2),
    ],
)
def test_a_server_compiles_nothing_that_was_kept(name, data, tensor, tmp_path):
    told = [str(ROOT / name), str(tmp_path), str(data), str(tensor)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *told],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept, new = map(int, done.stdout.split()[-2:])
    assert kept >= 12
    assert new == 0
