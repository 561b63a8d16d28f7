"""What a process and all its descendants took of the machine, by the operating system's own accounting (Linux)."""

from __future__ import annotations

import os
import resource
import time
from collections import defaultdict
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_QUIET_SHARE = 0.05


def tree(root: int) -> list[int]:
    """The process and its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_after_name(entry / "stat")[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        found.append(process)
        waiting += children.get(process, [])
    return found


def cpu_by_thread(root: int) -> dict[str, float]:
    """CPU seconds (user and system) of all threads that are alive in the tree, summed up by thread name."""
    seconds: dict[str, float] = defaultdict(float)
    for process in tree(root):
        for task in Path(f"/proc/{process}/task").glob("*"):
            try:
                # nanoseconds on a CPU; `stat` would count in whole ticks
                spent = int((task / "schedstat").read_text().split()[0]) / 1e9
                seconds[(task / "comm").read_text().strip()] += spent
            except OSError:
                continue
    return dict(seconds)


def memory(root: int) -> float:
    """Memory of the tree in MB; what several processes share is counted once."""
    return sum(memory_by_process(root).values())


def memory_by_process(root: int) -> dict[str, float]:
    """Proportional set size in MB, by process name and how deep it stands in the tree's order."""
    sizes: dict[str, float] = {}
    for place, process in enumerate(sorted(tree(root))):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            name = Path(f"/proc/{process}/comm").read_text().strip()
        except OSError:
            continue
        sizes[f"{place} {name}"] = (
            sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6
        )
    return sizes


def machine_busy() -> float:
    """CPU seconds that the whole machine has worked since it started."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + sum(rest[:3])) / _TICK


def own_work() -> float:
    """CPU seconds of this process, its living descendants and the children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(cpu_by_thread(os.getpid()).values()) + ended.ru_utime + ended.ru_stime


def wait_until_quiet(root: int, patience: float) -> None:
    """Return once the tree does next to nothing: what a load left behind is done."""
    deadline = time.monotonic() + patience
    before = sum(cpu_by_thread(root).values())
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = sum(cpu_by_thread(root).values())
        if now - before < 0.2 * _QUIET_SHARE:
            return
        before = now


def _after_name(stat: Path) -> list[str]:
    """The fields after the name, which may hold spaces and parentheses: state, parent, …"""
    return stat.read_text().rpartition(")")[2].split()
