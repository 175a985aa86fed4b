"""Makes r1-nano from nothing: `python tools/make_nano.py --output DIR`.

R1's stages (arXiv 2501.12948, section 2.3) at the size of a laptop, each a command that
is printed: lessons with thoughts written out, fine-tuning on them, reinforcement
learning, fine-tuning on the model's own right answers, and the evaluations. A stage
whose result is there is not done again, one that was stopped goes on. `stages.json` has
the processor time of each.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1jax.command import whole

# Lessons by their tasks; harder ones come more often.
_FIRST = (
    *("add", "compare", "word", "countdown"),
    *2 * ("subtract", "two-step"),
    *3 * ("multiply",),
)
_AGAIN = (
    *("add", "word"),
    *2 * ("subtract", "two-step"),
    *3 * ("multiply", "countdown"),
    *6 * ("compare",),
)


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
      name: Of the stage.
      result: What it leaves; there only when the stage is done.
      module: Of `python -m`.
      words: Its arguments.
      resumes: A folder: if it is there, the command goes on with `--resume`.
    """

    name: str
    result: Path
    module: str
    words: Sequence[str]
    resumes: Path | None = None


def stages(work: Path, scale: int) -> Iterator[Stage]:
    """Yields the stages in order; steps and problems are divided by `scale`."""

    def least(count: int) -> str:
        return str(max(count // scale, min(count, 40)))

    def sets(**values: object) -> list[str]:
        pairs = {k.replace("__", "."): v for k, v in values.items()}
        return [w for k, v in pairs.items() for w in ("--set", f"{k}={v}")]

    def train(name: str, config: str, result: Path, **values: object) -> Stage:
        words = [config, "--output", str(work / name), *sets(**values)]
        return Stage(name, result, "r1jax.train", words, work / name)

    def lessons(name: str, count: int, chats: int, seed: int, *tasks: str) -> Stage:
        file = work / f"{name}.jsonl"
        words = ["--lessons", str(file), "--count", least(count)]
        words += ["--chats", least(chats), "--seed", str(seed)]
        words += [word for task in tasks for word in ("--task", task)]
        return Stage(name, file, "r1jax.problems", words)

    tokenizer = work / "tokenizer"
    words = ["--write-tokenizer", str(tokenizer)]
    yield Stage("tokenizer", tokenizer, "r1jax.problems", words)
    yield lessons("lessons", 260_000, 30_000, 0, *_FIRST)
    first = work / "sft" / f"hf-{least(12_000)}"
    yield train(
        "sft",
        "configs/sft.py:nano",
        first,
        steps=least(12_000),
        tokenizer=tokenizer,
        data__files=work / "lessons.jsonl",
    )
    second = work / "grpo" / f"hf-{least(20)}"
    yield train("grpo", "configs/grpo.py:nano", second, steps=least(20), model=first)
    kept = work / "kept" / "kept.jsonl"
    yield train(
        "kept", "configs/reject.py:nano", kept, problems=least(3000), model=second
    )
    yield lessons("more", 130_000, 16_000, 1, *_AGAIN)
    last = work / "last" / f"hf-{least(6000)}"
    yield train(
        "last",
        "configs/sft.py:nano-again",
        last,
        steps=least(6000),
        model=second,
        data__files=f"{(str(kept), str(work / 'more.jsonl'))}",
    )
    for model in (first, second, last):
        for temperature in (0.6, 1.0):
            yield judged(work, model, temperature, 1, least(1000))
    yield judged(work, last, 0.6, 4, least(1000))
    yield judged(work, last, 0.6, 1, least(1000), "arithmetic-anew")
    yield judged(work, last, 0.6, 16, least(250))


def judged(
    work: Path,
    model: Path,
    temperature: float,
    samples: int,
    limit: str,
    task: str = "arithmetic",
) -> Stage:
    """Returns the evaluation of a model on problems that are held out."""
    name = f"judged-{model.parent.name}-{task}-{temperature}-{samples}"
    words = ["--model", str(model), "--task", task]
    words += ["--output", str(work / name), "--samples", str(samples)]
    words += ["--limit", limit, "--temperature", str(temperature)]
    words += ["--max-tokens", "512", "--top-p", "1" if temperature == 1 else "0.95"]
    return Stage(name, work / name / "results.json", "r1jax.evaluate", words)


def run(stage: Stage) -> dict[str, float]:
    """Runs a stage; returns its seconds of the clock and of all processors."""
    command = [sys.executable, "-m", stage.module, *stage.words]
    if stage.resumes and (stage.resumes / "checkpoints").exists():
        command.append("--resume")
    print(f"== {stage.name}:", *command[1:], flush=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    environment = {"JAX_PLATFORMS": "cpu"} | os.environ
    subprocess.run(command, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.time() - began), "processor": round(spent)}


def main() -> int:
    """Runs what is left; returns the exit code of the command that failed, or 0."""
    names = [stage.name for stage in stages(Path(), 1)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="a directory")
    parser.add_argument("--until", choices=names, help="the last stage to do")
    scale = "divide steps and problems by this, to try it (%(default)s)"
    parser.add_argument("--scale", type=whole(1), default=1, help=scale)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    record = args.output / "stages.json"
    times = json.loads(record.read_text()) if record.exists() else {}
    for stage in stages(args.output, args.scale):
        if not stage.result.exists():
            try:
                times.setdefault(stage.name, []).append(run(stage))
            except subprocess.CalledProcessError as error:
                return error.returncode
            record.write_text(json.dumps(times, indent=2) + "\n")
        if stage.name == args.until:
            break
    spent = sum(t["processor"] for runs in times.values() for t in runs)
    print(f"{spent / 60:.0f} minutes of one processor in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
