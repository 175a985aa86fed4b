"""The supervisor: who it starts again, and when it lets be."""

import signal
import textwrap

from hosts.processes import ROOT, Process

# A stand-in for the server: writes its number down, then does as the test says.
PROGRAM = """
    import pathlib, sys, time
    folder, number = pathlib.Path(sys.argv[1]), int(sys.argv[-1])
    runs = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{runs}").touch()
"""


def supervise(folder, body, *flags, count=2) -> Process:
    script = folder / "program.py"
    script.write_text(textwrap.dedent(PROGRAM) + textwrap.dedent(body))
    supervisor = ROOT / "deploy" / "supervise.py"
    command = ("--", "python", script, folder)
    return Process([supervisor, "--num-processes", count, *flags, *command])


def runs(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*-*"))


def test_all_start_again_when_one_dies(tmp_path):
    body = """
        sys.exit(7 if number == 1 and runs == 0 else 0)
    """
    process = supervise(tmp_path, body)
    assert process.wait() == 0
    assert runs(tmp_path) == ["0-0", "0-1", "1-0", "1-1"]
    assert "supervise: process 1 ended with code 7" in process.lines


def test_it_gives_up_after_so_many_restarts(tmp_path):
    process = supervise(tmp_path, "sys.exit(3)", "--max-restarts", 1, count=1)
    assert process.wait() == 3
    assert runs(tmp_path) == ["0-0", "0-1"]
    assert process.lines[-1] == "supervise: gives up after 1 restarts"


def test_refused_input_is_not_tried_again(tmp_path):
    process = supervise(tmp_path, "sys.exit(2 - number)")
    assert process.wait() == 2
    assert runs(tmp_path) == ["0-0", "1-0"]


def test_a_signal_reaches_all_and_nothing_starts_again(tmp_path):
    # One write a line: both processes share a pipe, and pieces of lines may mix.
    body = "sys.stdout.write(f'up {number}\\n'); sys.stdout.flush(); time.sleep(60)"
    process = supervise(tmp_path, body)
    process.wait_for("up 0")
    process.wait_for("up 1")
    process.kill(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    assert runs(tmp_path) == ["0-0", "1-0"]


def test_a_host_starts_its_own_processes_alone(tmp_path):
    process = supervise(tmp_path, "", "--process-id", 1, 3, count=4)
    assert process.wait() == 0
    assert runs(tmp_path) == ["1-0", "3-0"]


def test_numbers_out_of_range_are_refused(tmp_path):
    process = supervise(tmp_path, "", "--process-id", 4, count=4)
    assert process.wait() == 2
    assert process.lines[-1].endswith("processes are numbered from 0 to 3")
