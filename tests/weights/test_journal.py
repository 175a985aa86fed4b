"""A stopped conversion goes on where it stood, and ends in the same bytes."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from r1jax.errors import CheckpointError
from r1jax.weights import convert, journal, open_source
from r1jax.weights.arrays import Writer

ROOT = Path(__file__).parents[2]
SOURCE = "deepseek_fp8_mtp"
pytestmark = pytest.mark.usefixtures("small_units")

# Converts with small units, and is killed before the numbered call of those that write.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from r1jax.weights import arrays, convert, journal, leaves, manifest

leaves._WHOLE, arrays._CHUNK = 0, 300
calls = 0

def deadly(owner, name):
    function = getattr(owner, name)
    def call(*args, **more):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **more)
    setattr(owner, name, call)

for owner, name in (
    (arrays.Writer, "__init__"), (arrays.Writer, "write"), (journal.Journal, "note"),
    (journal.Journal, "begin"), (manifest, "write_metadata"), (manifest, "write"),
    (Path, "rename"), (shutil, "rmtree"),
):
    deadly(owner, name)
report = convert(sys.argv[1], sys.argv[2], dtype="float32")
print(report.resumed_units, report.units, calls)
"""


def run(source: Path, output: Path, call: int) -> list[int] | None:
    """Converts in a process of its own; gives its counts, or None if it was killed."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), str(output), str(call)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0
    return [int(number) for number in done.stdout.split()]


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def noted(output: Path) -> int:
    """How many units the journal of an unfinished conversion speaks of."""
    lines = (output.with_name("output.partial") / "journal").read_bytes().split(b"\n")
    return sum(line.startswith(b'{"unit"') for line in lines[:-1])


def kill_again_and_again(hf_copy, tmp_path, calls) -> None:
    """Kills a conversion before each of these calls, then lets it end."""
    source, whole, output = hf_copy(SOURCE), tmp_path / "whole", tmp_path / "output"
    convert(source, whole, dtype="float32")
    before = 0
    for call in calls:
        assert run(source, output, call) is None
        assert not output.exists()
        with pytest.raises(CheckpointError):
            open_source(output.with_name("output.partial"))
        finished = noted(output)
        assert finished >= before  # what was finished stays finished
        before = finished
    resumed, units, _ = run(source, output, 0)
    assert 0 < before == resumed < units
    assert contents(output) == contents(whole)
    assert {path.name for path in tmp_path.iterdir()} == {SOURCE, "whole", "output"}


def test_killed_three_times_it_ends_in_the_same_bytes(hf_copy, tmp_path):
    kill_again_and_again(hf_copy, tmp_path, [40, 41, 90])


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bytes(hf_copy, tmp_path):
    draw = random.Random(os.getpid())  # other moments in every run
    calls = [draw.randrange(2, 60) for _ in range(6)]
    kill_again_and_again(hf_copy, tmp_path, calls)


@pytest.mark.slow
def test_killed_in_its_last_steps_it_ends_in_the_same_bytes(hf_copy, tmp_path):
    source, whole = hf_copy(SOURCE), tmp_path / "whole"
    *_, calls = run(source, whole, 0)
    # The last calls: metadata, manifest, the directory's name, the journal's removal.
    for back in range(4):
        output = tmp_path / f"output{back}"
        assert run(source, output, calls - back) is None
        resumed, units, _ = run(source, output, 0)
        assert units - 1 <= resumed
        assert contents(output) == contents(whole)
        assert not output.with_name(f"{output.name}.partial").exists()


@pytest.fixture
def stopped(hf_copy, tmp_path, monkeypatch):
    """A conversion that an interrupt stopped; gives source, output, partial."""
    source, output = hf_copy(SOURCE), tmp_path / "output"
    write = Writer.write

    def stop(self, index, unit):
        if self.stored.path[-2:] == ("down", "kernel"):
            raise KeyboardInterrupt
        return write(self, index, unit)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(source, output)
    assert not output.exists()
    return source, output, tmp_path / "output.partial"


def test_finished_units_are_not_written_again(stopped, monkeypatch):
    source, output, _ = stopped
    before, write, writes = noted(output), Writer.write, []

    def count(self, index, unit):
        writes.append((self.stored.name, index))
        return write(self, index, unit)

    monkeypatch.setattr(Writer, "write", count)
    report = convert(source, output)
    assert report.resumed_units == before > 0
    assert len(writes) == len(set(writes)) == report.units - before
    assert f"resumed: {report.resumed_leaves} of {report.leaves} leaves" in str(report)


@pytest.mark.parametrize("half", ["", "checkpoint"])
def test_what_is_not_finished_is_not_opened(stopped, half):
    with pytest.raises(CheckpointError, match="not finished") as error:
        open_source(stopped[2] / half)
    assert "again" in error.value.fix


def test_another_dtype_does_not_go_on(stopped):
    source, output, partial = stopped
    with pytest.raises(CheckpointError, match="another conversion: dtypes") as error:
        convert(source, output, dtype="float32")
    assert f"remove {partial}" in error.value.fix
    assert convert(source, output).resumed_units > 0


def test_a_changed_source_does_not_go_on(stopped):
    source, output, _ = stopped
    shard = next(source.glob("*.safetensors"))
    os.utime(shard, ns=(0, 0))
    with pytest.raises(CheckpointError, match=rf"another conversion: {shard.name}"):
        convert(source, output)


def test_two_processes_do_not_write_the_same_output(stopped):
    source, output, partial = stopped
    with (
        journal._locked(partial),
        pytest.raises(CheckpointError, match="another process"),
    ):
        convert(source, output)
    assert convert(source, output).resumed_units > 0


def chunks(partial: Path) -> list[Path]:
    return sorted(p for p in partial.rglob("c/**/*") if p.is_file())


@pytest.mark.parametrize("loss", ["gone", "empty", "zeros"])
def test_after_the_machine_failed_lost_units_are_made_again(
    stopped, tmp_path, monkeypatch, loss
):
    source, output, partial = stopped
    before = noted(output)
    victim = chunks(partial)[-1]
    if loss == "gone":
        victim.unlink()
    else:
        victim.write_bytes(bytes(victim.stat().st_size * (loss == "zeros")))
    monkeypatch.setattr(journal, "_boot", lambda: "another")
    assert convert(source, output).resumed_units == before - 1
    convert(source, tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")


def test_a_journal_cut_in_a_line_counts_up_to_there(stopped, tmp_path):
    source, output, partial = stopped
    before = noted(output)
    path = partial / "journal"
    path.write_bytes(path.read_bytes()[:-5])
    assert convert(source, output).resumed_units == before - 1
    convert(source, tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")


def test_a_conversion_that_finished_nothing_leaves_nothing(
    hf_copy, tmp_path, monkeypatch
):
    source = hf_copy(SOURCE)

    def full(self, index, unit):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "write", full)
    with pytest.raises(CheckpointError, match="No space left"):
        convert(source, tmp_path / "output")
    assert list(tmp_path.iterdir()) == [source]
