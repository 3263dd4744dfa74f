"""Servers on the devices of a Ray cluster, one for each, behind one door.

Ray Serve starts a server for each device, begins a new one where one died, and opens and ends
servers as there are more films or fewer (``servers_for`` in ``ray_stations.py``). Each is the same
server as without Ray, and all have one store; ``door.py`` sends what a film is asked for to the
server that has it. When that server goes, the film goes on from the store on another one.

The door and the servers listen on ports of their own: what Ray Serve's own proxy passes on waits
without bound for a viewer that does not read, and here such a viewer loses frames.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from contextlib import redirect_stdout, suppress
from typing import Any

import ray
from ray import serve

from ..errors import ConfigError, ShotStreamError
from .film_settings import FilmSettings
from .fleet import Fleet
from .limits import Limits
from .listener import Listener
from .ray_stations import make_app
from .store import Store
from .tokens import Tokens

_APP = "shotstream"
_OBJECT_STORE_BYTES = 80 * 2**20
"""About the least that Ray takes: nothing of a film passes through it."""


class RayServer:
    """A fleet, run and ended as a ``Server`` is.

    The environment variable ``RAY_ADDRESS`` names a cluster that runs; without it one is made of
    this machine alone, for as long as this lasts.

    Args:
        settings: how films are made.
        tokens: who may do what; default: a new secret.
        limits: bounds of each server.
        origins: of pages that may connect besides the door's own.
        store: of all servers; what it is in, every machine of the cluster sees.
        servers: how many servers there always are, and how many there may be.
        json_logs: whether their processes write JSON to their logs.

    Raises:
        ConfigError: what is asked for cannot be.
    """

    def __init__(
        self,
        settings: FilmSettings | None = None,
        *,
        store: Store,
        servers: tuple[int, int],
        json_logs: bool = False,
        tokens: Tokens | None = None,
        limits: Limits | None = None,
        origins: tuple[str, ...] = (),
    ) -> None:
        self.tokens = tokens or Tokens()
        self._settings, self._limits = settings or FilmSettings(), limits or Limits()
        self._store, self._servers, self._origins = store, servers, origins
        self._json_logs = json_logs
        self._alone = "RAY_ADDRESS" not in os.environ
        self._stopped = threading.Event()
        self.address = ""
        """Address of the door without a token; once it listens."""
        device = str(self._settings.options.get("device") or "auto")
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"--device {device}: got one device, wanted auto, cpu or cuda; Ray gives every "
                "server a device of its own"
            )

    def listen(self, host: str, port: int) -> str:
        """Start all servers and the door, and return the address of the page.

        Args:
            host: name or address that the door listens on.
            port: 0 takes any free one.

        Raises:
            ConfigError: the port cannot be taken, or the machine has too few devices.
            ShotStreamError: the servers do not start.
        """
        if self._alone:
            Listener(host, port).close()  # a port that is taken is told at once
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        fewest, most = self._servers
        fleet = Fleet(
            settings=self._settings,
            secret=self.tokens.director,
            limits=self._limits,
            origins=self._origins,
            store=self._store,
            fewest=fewest,
            most=most,
            host=host,
            port=port,
            json_logs=self._json_logs,
            alone=self._alone,
        )
        with redirect_stdout(sys.stderr):  # Ray prints what its processes report
            _join_cluster(alone=self._alone)
            try:
                serve.start(proxy_location="Disabled")
                app = make_app(fleet, self._device(fewest))
                door = serve.run(app, name=_APP, route_prefix=None)
                self.address = door.address.remote().result()
            except BaseException as error:
                reason = _reason(error)
                self._end()
                if isinstance(error, RuntimeError):
                    raise ShotStreamError(reason) from error
                raise
        return f"{self.address}/#token={self.tokens.director}"

    def run(self) -> None:
        """Wait until the process is asked to end, or ``stop`` is called; then end all servers."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: self.stop())
        with redirect_stdout(sys.stderr):  # Ray prints what its processes report
            try:
                while not self._stopped.wait(1):
                    pass
            finally:
                self._end()

    def stop(self) -> None:
        """Ask ``run`` to end; from any thread."""
        self._stopped.set()

    def _device(self, fewest: int) -> dict[str, float]:
        """Return what one server takes of the cluster.

        Raises:
            ConfigError: this machine alone cannot give it to all of them.
        """
        device = self._settings.options.get("device") or "auto"
        there = ray.cluster_resources()
        gpu = device == "cuda" or (device == "auto" and there.get("GPU", 0) >= 1)
        name, each = ("GPU", 1) if gpu else ("CPU", self._settings.threads or 1)
        if self._alone and fewest * each > there.get(name, 0):
            raise ConfigError(
                f"--ray: got {fewest} servers with {each} {name} each, and this machine has "
                f"{there.get(name, 0):g}; wanted fewer, or RAY_ADDRESS to name a cluster"
            )
        return {"num_gpus": 1} if gpu else {"num_cpus": each}

    def _end(self) -> None:
        """End the servers, which write their films to the store, and leave the cluster."""
        with suppress(Exception):  # a cluster that has gone has ended them
            if self._alone:
                serve.shutdown()
            else:
                serve.delete(_APP)
        ray.shutdown()


def _join_cluster(*, alone: bool) -> None:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or make one of this machine alone.

    Raises:
        ShotStreamError: Ray cannot be reached, or does not start.
    """
    options: dict[str, Any] = {}
    if alone:
        options = {
            "address": "local",
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "logging_level": logging.ERROR,
        }
    try:
        ray.init(log_to_driver=False, **options)
    except Exception as error:  # Ray raises all kinds
        ray.shutdown()
        where = "on this machine" if alone else "at RAY_ADDRESS"
        raise ShotStreamError(f"ray: cannot be used {where} ({error})") from error


def _reason(error: BaseException) -> str:
    """Return why servers did not start: the last error that one of them tells of."""
    told = str(error)
    with suppress(Exception):  # the cluster may have gone
        deployments = serve.status().applications[_APP].deployments
        told = "\n".join(deployment.message for deployment in deployments.values())
    errors = re.findall(r"^[\w.]*Error: (.+)$", told, re.MULTILINE)
    return f"ray: the servers do not start: {errors[-1] if errors else error}"
