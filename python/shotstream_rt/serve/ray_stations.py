"""What Ray Serve runs: a server on each device, and the door before them."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from .. import env
from ..errors import ShotStreamError
from . import logs
from .door import Door
from .fleet import Fleet
from .listener import Listener
from .server import Server
from .station import Station, describe
from .tokens import Tokens

_LOOK_S = 2
"""How long servers may take to describe themselves; they need milliseconds."""
_LEAVE_S = 10
"""How long a server may take to end: it finishes its chunks and writes them to the store."""


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


def _begin_logs(fleet: Fleet) -> None:
    """Let a process that Ray started log as ``serve`` does."""
    logging.basicConfig(level=env.log_level())
    if fleet.json_logs:
        logs.use_json(env.log_level("info"))
