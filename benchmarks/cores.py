"""The processor cores of a run: taking them, and how busy others keep them (Linux)."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

_TICK = os.sysconf("SC_CLK_TCK")


def take(count: int) -> list[int]:
    """Pins this process, and those it starts from now on, to a few of its cores."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    return cores


def busy_seconds(cores: Sequence[int]) -> float:
    """Returns how long the cores have worked, or were kept from it by their host."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in {f"cpu{core}" for core in cores}:
            user, nice, system, _, _, interrupts, soft, steal, *_ = map(int, fields)
            ticks += user + nice + system + interrupts + soft + steal
    return ticks / _TICK


def process_seconds(pid: int) -> float:
    """Returns how long a process has worked, over all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def family_seconds(pid: int) -> float:
    """Returns the same of a process and of all that it started and that live."""
    seconds, below = 0.0, {pid}
    found = sorted(int(each.name) for each in Path("/proc").glob("[0-9]*"))
    for each in found:
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if each in below or int(fields[1]) in below:
            below.add(each)
            seconds += (int(fields[11]) + int(fields[12])) / _TICK
    return seconds


def busy_share(cores: Sequence[int], seconds: float = 0.3) -> float:
    """Returns the share of the cores' time that is in use just now."""
    start = busy_seconds(cores)
    time.sleep(seconds)
    return (busy_seconds(cores) - start) / (seconds * len(cores))


class Watch:
    """Tells the share of the cores' time that went to others while one process ran."""

    def __init__(self, cores: Sequence[int], pid: int) -> None:
        self._cores, self._pid = cores, pid
        self.others = 0.0

    def __enter__(self) -> "Watch":
        self._start = self._now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ended = self._now()
        seconds, busy, own = (b - a for a, b in zip(self._start, ended, strict=True))
        self.others = max(busy - own, 0.0) / (seconds * len(self._cores))

    def _now(self) -> tuple[float, float, float]:
        clock = os.times().elapsed
        return clock, busy_seconds(self._cores), process_seconds(self._pid)
