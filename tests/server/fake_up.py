"""A supervisor over one fake engine, as a process of its own: `fake_up.py DIRECTORY PORT [options of the engine]`.

`STARLOOP_TEST_ENGINE` names a program that runs instead of the fake engine's script, `STARLOOP_TEST_GRACE` are the seconds that
it has from SIGTERM on.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from server.engine.rest import Rest
from server.processes.child import Child, Launch, Terms
from server.processes.claim import Claim
from server.processes.family import myself
from server.processes.probe import answers
from server.processes.record import end_left_over
from server.supervisor import Post, Supervisor


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    directory, port = Path(sys.argv[1]), int(sys.argv[2])
    claim = Claim(directory, "up")
    for name in end_left_over(directory / "run", grace=1):
        say(f"{name}: ended; a former run had left it behind")
    script = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
    program = os.environ.get("STARLOOP_TEST_ENGINE")
    engine = [program] if program else script
    child = Child(
        "engine-fake",
        Launch([*engine, "--port", str(port), *sys.argv[3:]], dict(os.environ), directory),
        Terms(start=20, grace=float(os.environ["STARLOOP_TEST_GRACE"]), remnants=1),
        directory,
        myself(),
        say,
        partial(answers, "127.0.0.1", port, "/health"),
        port,
    )
    rest = Rest([child], (directory / "busy").exists, directory, 30.0, say)
    status = Supervisor([Post(child)], say, "all ready", rest).run()
    claim.release()
    return status


if __name__ == "__main__":
    sys.exit(main())
