"""Servers on the devices of a Ray cluster, one for each, behind one door.

Ray Serve starts a server for each device, begins a new one where one died, and opens and ends
servers as there are more films or fewer (``servers_for``). Each is the same server as without Ray,
and all have one store; ``door.py`` sends what a film is asked for to the server that has it. When
that server goes, the film goes on from the store on another one.

The door and the servers listen on ports of their own: what Ray Serve's own proxy passes on waits
without bound for a viewer that does not read, and here such a viewer loses frames.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from .. import env
from ..errors import ConfigError, ShotStreamError
from . import logs
from .door import Door
from .films import FilmSettings
from .limits import Limits
from .listener import Listener
from .server import Server
from .station import Station, describe
from .store import Store
from .tokens import Tokens

_log = logging.getLogger("shotstream_rt.serve")

_APP = "shotstream"
_LOOK_S = 2
"""How long servers may take to describe themselves; they need milliseconds."""
_LEAVE_S = 10
"""How long a server may take to end: it finishes its chunks and writes them to the store."""
_OBJECT_STORE_BYTES = 80 * 2**20
"""About the least that Ray takes: nothing of a film passes through it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What runs on the cluster.

    Attributes:
        settings: how films are made.
        secret: the director's token.
        limits: of each server.
        origins: of pages that may connect besides the door's own.
        store: of all servers; what it is in, every machine of the cluster sees.
        fewest: servers that there always are.
        most: servers that there may be.
        host: address that the door listens on.
        port: likewise; 0 takes any free one.
        json_logs: whether the processes write JSON to their logs.
        alone: whether this machine is the whole cluster, so that nobody else has to reach servers.
    """

    settings: FilmSettings
    secret: str
    limits: Limits
    store: Store
    origins: tuple[str, ...] = ()
    fewest: int = 1
    most: int = 1
    host: str = "127.0.0.1"
    port: int = 8716
    json_logs: bool = False
    alone: bool = True


def servers_for(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Return how many servers play those films that are to play and one more.

    Ray's autoscaler calls it with what ``DeviceServer.record_autoscaling_stats`` returned.
    """
    told = context.aggregated_metrics or {}
    films, places = (list(told.get(name, {}).values()) for name in ("films", "places"))
    if not places:
        return context.target_num_replicas, {}
    return math.ceil((sum(films) + 1) * len(places) / sum(places)), {}


class DeviceServer:
    """A server on one device, in a process that Ray started. It is ready once it has its model.

    Args:
        fleet: what runs on the cluster.
    """

    def __init__(self, fleet: Fleet) -> None:
        _begin_logs(fleet)
        self._server = Server(
            fleet.settings,
            tokens=Tokens(fleet.secret),
            limits=fleet.limits,
            origins=fleet.origins,
            store=fleet.store,
        )
        self._server.listen("127.0.0.1" if fleet.alone else ray.util.get_node_ip_address(), 0)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="shotstream-server", daemon=True)
        self._thread.start()
        while not self._has_model():
            self._thread.join(0.05)
            self.check_health()

    def _run(self) -> None:
        try:
            self._server.run()
        except BaseException as error:
            self._failed = error

    def _has_model(self) -> bool:
        films = getattr(self._server, "films", None)  # there once the server has begun
        return films is not None and films.unready is None

    def describe(self) -> Station:
        """Return where it listens and what it has, for the door."""
        return describe(self._server)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return how many films play or wait to and how many can play, for ``servers_for``."""
        films = self._server.films
        return {"films": films.line.playing + len(films.line), "places": films.capacity()}

    def check_health(self) -> None:
        """Tell Ray whether a new server is to be begun in place of this one.

        Raises:
            ShotStreamError: it has ended.
        """
        if not self._thread.is_alive():
            raise ShotStreamError(f"server: it has ended ({self._failed})") from self._failed

    def __del__(self) -> None:
        """End; Ray calls this before it ends the process."""
        self._server.stop()
        self._thread.join(_LEAVE_S)


class FrontDoor:
    """The door, in a process that Ray started.

    Args:
        fleet: what runs on the cluster.
        servers: the servers behind it.
    """

    def __init__(self, fleet: Fleet, servers: DeploymentHandle[DeviceServer]) -> None:
        _begin_logs(fleet)
        self._servers = servers
        self._listener = Listener(fleet.host, fleet.port)
        self._door = Door(self._look, Tokens(fleet.secret), fleet.limits)
        self._running = threading.Thread(
            target=self._listener.run,
            args=(self._door, fleet.limits),
            name="shotstream-door",
            daemon=True,
        )
        self._running.start()

    def address(self) -> str:
        """Return where it listens."""
        return self._listener.address

    def check_health(self) -> None:
        """Tell Ray whether a new door is to be begun in place of this one.

        Raises:
            ShotStreamError: it has ended.
        """
        if not self._running.is_alive():
            raise ShotStreamError("door: it has ended")

    async def _look(self) -> Sequence[Station]:
        """Return what the servers say of themselves; one that has just died says nothing."""
        told = self._servers.broadcast("describe")
        found = await told.results_async(timeout_s=_LOOK_S, return_exceptions=True)
        return [station for station in found if isinstance(station, Station)]

    def __del__(self) -> None:
        """End; Ray calls this before it ends the process."""
        self._listener.stop()
        self._running.join(_LEAVE_S)


def make_app(fleet: Fleet, device: dict[str, float]) -> serve.Application:
    """Return what Ray Serve runs.

    Args:
        fleet: what runs on the cluster.
        device: what one server takes of the cluster, such as ``{"num_gpus": 1}``.
    """
    servers = serve.deployment(
        name="servers",
        ray_actor_options=device,
        autoscaling_config=AutoscalingConfig(
            min_replicas=fleet.fewest,
            max_replicas=fleet.most,
            policy=AutoscalingPolicy(policy_function=servers_for),
            metrics_interval_s=2,
            look_back_period_s=4,
            upscale_delay_s=4,
            downscale_delay_s=600,
        ),
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=_LEAVE_S,
        max_constructor_retry_count=1,
    )(DeviceServer)
    # The door stays at one address: on the machine that is the head of the cluster.
    door = serve.deployment(
        name="door",
        ray_actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}},
        health_check_period_s=2,
        graceful_shutdown_wait_loop_s=0.1,
        max_constructor_retry_count=1,
    )(FrontDoor)
    return door.bind(fleet, servers.bind(fleet))


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


def _begin_logs(fleet: Fleet) -> None:
    """Let a process that Ray started log as ``serve`` does."""
    logging.basicConfig(level=env.log_level())
    if fleet.json_logs:
        logs.use_json(env.log_level("info"))


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
