"""Puts what make_nano.py made into the package: `tools/pack_nano.py --input DIR`.

Beside the weights go the card, the record (seeds, digests, processor time, results) and
the thinned logs of training.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parents[1] / "r1jax" / "r1-nano"
CARD = Path(__file__).parent / "r1-nano-card.md"
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
STEPS_KEPT = 100  # of each log
STAGES = {
    "sft": "fine-tuned on lessons",
    "grpo": "after GRPO",
    "last": "after its own right answers and new lessons",
}


def main() -> int:
    """Copies, records and writes the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="a directory")
    work = parser.parse_args().input
    try:
        (model,) = (work / "last").glob("hf-*")
        found = record(work, model)
        card = CARD.read_text(encoding="utf-8").format(**tables(found))
    except (OSError, KeyError, ValueError) as error:
        sys.stderr.write(
            f"{work} does not hold all that make_nano.py makes\n"
            f"Why: {type(error).__name__}: {error}\n"
            "Fix: let tools/make_nano.py run to its end\n"
        )
        return 2
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.copytree(model, PLACE)
    settings = json.dumps(SAMPLING, indent=2) + "\n"
    (PLACE / "generation_config.json").write_text(settings, encoding="utf-8")
    logs = PLACE / "training"
    logs.mkdir()
    for stage in STAGES:
        thin(work / stage / "metrics.jsonl", logs / f"{stage}.jsonl")
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (logs / "record.json").write_text(text, encoding="utf-8")
    (PLACE / "README.md").write_text(card, encoding="utf-8")
    size = sum(p.stat().st_size for p in PLACE.rglob("*") if p.is_file())
    print(f"{size:,} bytes in {PLACE}")
    return 0


def thin(source: Path, target: Path) -> None:
    """Keeps some lines of a log, the last one among them."""
    lines = source.read_text(encoding="utf-8").splitlines()
    every = -(-len(lines) // STEPS_KEPT)
    kept = lines[::-1][::every][::-1]
    target.write_text("\n".join(kept) + "\n", encoding="utf-8")


def record(work: Path, model: Path) -> dict[str, Any]:
    """Gathers what was used, what it took and what came of it."""
    results = {}
    for path in sorted(work.glob("judged-*/results.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        results[path.parent.name.removeprefix("judged-")] = found["results"]
    return {
        "weights_sha256": digest(model / "model.safetensors"),
        "lessons_sha256": digest(work / "lessons.jsonl"),
        "kept_sha256": digest(work / "kept" / "kept.jsonl"),
        "more_sha256": digest(work / "more.jsonl"),
        "seeds": {"lessons": 0, "more": 1, "training": 0, "evaluation": 0},
        "stages": json.loads((work / "stages.json").read_text(encoding="utf-8")),
        "results": results,
    }


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """Returns the card's tables in Markdown, and the minutes of two processors."""
    results = found["results"]
    (seen,) = results["last-arithmetic-0.6-4"]
    (most,) = results["last-arithmetic-0.6-16"]
    (anew,) = results["last-arithmetic-anew-0.6-1"]
    by_task = [
        f"| {name} | {100 * mean:.1f} | {100 * anew['groups'][name][0]:.1f} |"
        for name, (mean, _) in seen["groups"].items()
    ]
    both = [share(some["pass_at_1"]) for some in (seen, anew)]
    by_task.append(f"| all | {' | '.join(both)} |")
    by_stage = []
    for stage, words in STAGES.items():
        at = [
            share(results[f"{stage}-arithmetic-{t}-1"][0]["pass_at_1"])
            for t in (0.6, 1.0)
        ]
        by_stage.append(f"| {words} | {' | '.join(at)} |")
    runs = [found["stages"][name] for name in (*STAGES, "kept")]
    spent = sum(run["processor"] for stage in runs for run in stage)
    return {
        "by_task": "\n".join(by_task),
        "by_stage": "\n".join(by_stage),
        "alone": share(most["pass_at_1"]),
        "majority": share(most["cons_at_k"]),
        "minutes": f"{spent / 120:.0f}",
    }


def share(one: Mapping[str, float]) -> str:
    """Writes a share in percent with its standard error."""
    return f"{100 * one['mean']:.1f} ± {100 * one['stderr']:.1f}"


if __name__ == "__main__":
    sys.exit(main())
