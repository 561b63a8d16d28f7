"""Who is measured: each a process (or none) that takes a completion and passes it on to the static engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from tests.bench import peers
from tests.bench.request import completion
from tests.bench.upstream import MODEL
from tests.server.served import free_port

_START_SECONDS = 120
_CHAT = "/v1/chat/completions"


@dataclass
class Contender:
    """One that is ready to be measured."""

    name: str
    note: str
    url: str = ""
    """Where completions go; empty for who is called inside its own process."""
    model: str = MODEL
    headers: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[Any] | None = None

    @property
    def body(self) -> dict[str, Any]:
        return completion(self.model)

    def answers(self) -> bool:
        """Whether it passes a completion on now."""
        headers = {"content-type": "application/json", **self.headers}
        request = Request(self.url, json.dumps(self.body).encode(), headers)
        try:
            with urlopen(request, timeout=10) as answer:
                return bool(json.load(answer)["choices"])
        except (URLError, OSError, ValueError, KeyError):
            return False

    def stop(self) -> None:
        if self.process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
                return


class Bench:
    """What all contenders need to start: a folder of their own, and where the engine listens."""

    def __init__(self, folder: Path, engine: int) -> None:
        self.folder = folder
        self.engine = f"http://127.0.0.1:{engine}"
        self.engine_port = engine

    def direct(self) -> Contender:
        return Contender("direct", "nothing in between", self.engine + _CHAT)

    def nginx(self) -> Contender:
        port, folder = free_port(), self._folder("nginx")
        configuration = folder / "nginx.conf"
        configuration.write_text(
            "daemon off; worker_processes 1; pid nginx.pid; error_log stderr crit; events { worker_connections 4096; }\n"
            "http { access_log off; keepalive_requests 100000000; client_body_temp_path b; proxy_temp_path p;\n"
            "fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n"
            f"upstream engine {{ server 127.0.0.1:{self.engine_port}; keepalive 512; keepalive_requests 100000000; }}\n"
            f"server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ proxy_pass http://engine;\n"
            'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }\n'
        )
        command = [*peers.debian("nginx"), "-p", str(folder), "-c", str(configuration), "-e", "stderr"]
        note = f"nginx {peers.NGINX}, one worker, no log"
        return self._started(Contender("nginx", note, f"http://127.0.0.1:{port}{_CHAT}"), command)

    def captured(self, workers: int = 1) -> Contender:
        name = "starloop" if workers == 1 else f"starloop, {workers} workers"
        return self._starloop(name, "a key and capture on", "server.command", workers)

    def uncaptured(self) -> Contender:
        return self._starloop(
            "starloop, no capture", "the same without a journal", "tests.bench.uncaptured", 1
        )

    def litellm(self) -> Contender:
        python = peers.python("litellm", f"litellm[proxy]=={peers.LITELLM}")
        port, folder = free_port(), self._folder("litellm")
        parameters = {"model": f"hosted_vllm/{MODEL}", "api_base": f"{self.engine}/v1", "api_key": "none"}
        configuration = {
            "model_list": [{"model_name": "assistant", "litellm_params": parameters}],
            "general_settings": {"master_key": "sk-bench"},
        }
        path = folder / "config.yaml"
        path.write_text(json.dumps(configuration))  # JSON is YAML
        command = [
            str(python.parent / "litellm"),
            "--config",
            str(path),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        environment = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
        }
        contender = Contender(
            "LiteLLM",
            f"litellm {peers.LITELLM}, one worker, a master key, no logging",
            f"http://127.0.0.1:{port}{_CHAT}",
            "assistant",
            {"authorization": "Bearer sk-bench"},
        )
        return self._started(contender, command, environment)

    def portkey(self) -> Contender:
        command = peers.node("@portkey-ai/gateway", peers.PORTKEY, "build/start-server.js")
        port = free_port()
        self._folder("portkey")
        contender = Contender(
            "Portkey",
            f"@portkey-ai/gateway {peers.PORTKEY}, no key, no logging",
            f"http://127.0.0.1:{port}{_CHAT}",
            MODEL,
            {
                "x-portkey-provider": "openai",
                "x-portkey-custom-host": f"{self.engine}/v1",
                "authorization": "Bearer none",
            },
        )
        return self._started(
            contender, [*command, f"--port={port}", "--headless"], {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
        )

    def tensorzero(self) -> Contender:
        python = peers.python("tensorzero", f"tensorzero=={peers.TENSORZERO}")
        folder = self._folder("tensorzero")
        configuration = folder / "tensorzero.toml"
        configuration.write_text(
            "[gateway]\nobservability.enabled = false\n"
            '[models.assistant]\nrouting = ["engine"]\n'
            f'[models.assistant.providers.engine]\ntype = "vllm"\nmodel_name = "{MODEL}"\n'
            f'api_base = "{self.engine}/v1"\napi_key_location = "none"\n'
        )
        contender = Contender(
            "TensorZero embedded",
            f"tensorzero {peers.TENSORZERO}, called inside the client's process: no HTTP server in front, no logging",
        )
        command = [str(python), "-m", "tests.bench.embedded", str(configuration), str(self.engine_port)]
        contender.process = self._start("tensorzero", command, {}, talks=True)
        _expect(contender.process)
        return contender

    # -- starting

    def _starloop(self, name: str, note: str, module: str, workers: int) -> Contender:
        port, folder = free_port(), self._folder(name)
        configuration = folder / "starloop.toml"
        configuration.write_text(
            f'[storage]\ndirectory = "{folder / "data"}"\n[server]\nport = {port}\nworkers = {workers}\n'
            f'[[engine]]\nbase = "{MODEL}"\nurls = ["{self.engine}"]\n[[model]]\nname = "assistant"\nbase = "{MODEL}"\n'
        )
        keys = [sys.executable, "-m", "server.command", "keys", "create", "--scopes", "infer", "--json"]
        made = subprocess.run(
            [*keys, "--config", str(configuration)], cwd=peers.ROOT, capture_output=True, check=True
        )
        secret = json.loads(made.stdout)["secret"]
        contender = Contender(
            name, note, f"http://127.0.0.1:{port}{_CHAT}", "assistant", {"authorization": f"Bearer {secret}"}
        )
        return self._started(
            contender, [sys.executable, "-m", module, "serve", "--config", str(configuration)]
        )

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _started(
        self, contender: Contender, command: list[str], environment: dict[str, str] | None = None
    ) -> Contender:
        contender.process = self._start(contender.name, command, environment or {})
        deadline = time.monotonic() + _START_SECONDS
        while not contender.answers():
            if contender.process.poll() is not None or time.monotonic() > deadline:
                contender.stop()
                raise peers.NotInstalledError(f"it did not come to answer; see {self._log(contender.name)}")
            time.sleep(0.2)
        return contender

    def _start(
        self, name: str, command: list[str], environment: dict[str, str], talks: bool = False
    ) -> subprocess.Popen[Any]:
        pipe = subprocess.PIPE if talks else None
        with self._log(name).open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=peers.ROOT,
                env={**os.environ, **environment},
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or log,
                stderr=log,
                text=talks,
                start_new_session=True,
            )

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def ask(process: subprocess.Popen[Any], command: dict[str, Any]) -> dict[str, Any]:
    """Give a command to a process that answers in lines of JSON."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()
    return _expect(process)


def _expect(process: subprocess.Popen[Any]) -> dict[str, Any]:
    output: IO[str] | None = process.stdout
    assert output is not None
    line = next((line for line in output if line.startswith("{")), "")  # TensorZero logs to standard output
    if not line:
        raise peers.NotInstalledError(f"{process.args!r} ended without an answer")
    answer: dict[str, Any] = json.loads(line)
    return answer


STARTERS: dict[str, Callable[[Bench], Contender]] = {
    "direct": Bench.direct,
    "nginx": Bench.nginx,
    "starloop": Bench.captured,
    "uncaptured": Bench.uncaptured,
    "tensorzero": Bench.tensorzero,
    "portkey": Bench.portkey,
    "litellm": Bench.litellm,
}
