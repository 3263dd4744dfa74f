"""The model that all films of a server share: its loading, and what its device can play."""

from __future__ import annotations

import asyncio
import logging
import time

from ..errors import ShotStreamError
from ..loading.load_model import Model
from ..loading.progress import Cancellation, LoadingCancelled
from .film_settings import FilmSettings
from .from_server import Loading
from .problems import EndingError, NoModelError
from .public_names import model_name
from .scheduler import Scheduler, places
from .throughput import measure

_log = logging.getLogger("shotstream_rt.serve")

_GIVEN_UP_S = 4
"""How long a loading may take to be given up."""


class SharedModel:
    """The model of one server. Used on the event loop's thread.

    Args:
        settings: how films are made.
        scheduler: is told how many films compute at once, and how much the device makes.
    """

    def __init__(self, settings: FilmSettings, scheduler: Scheduler) -> None:
        self._settings, self._scheduler = settings, scheduler
        self._begun_s = time.monotonic()
        self._cancellation = Cancellation()
        self._loading: asyncio.Task[Model] | None = None
        self._frame_rate_hz = 0

    def load(self) -> asyncio.Task[Model]:
        """Begin to load the model, or return the task that loads it."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._open))
        return self._loading

    async def get(self) -> Model:
        """Return the model, once it is loaded.

        Raises:
            NoModelError: it cannot be.
            EndingError: the server ends before it is.
        """
        try:
            return await asyncio.shield(self.load())
        except LoadingCancelled:
            raise EndingError from None
        except ShotStreamError as error:
            raise NoModelError(
                "the model cannot be loaded; the server's own output says why"
            ) from error

    def _open(self) -> Model:
        """Load the model and measure its device; on a thread."""
        settings, scheduler = self._settings, self._scheduler
        model = Model.open(
            settings.model,
            threads=settings.threads,
            progress=self._cancellation.tell,
            **settings.options,
        )
        scheduler.places = places(model.device, settings.threads)
        if settings.capacity is None:
            try:
                measure(
                    model,
                    scheduler.throughput,
                    scheduler.places,
                    settings.threads,
                    self._cancellation,
                )
            except LoadingCancelled:
                model.close()
                raise
        self._frame_rate_hz = model.frame_rate_hz
        _log.info("%d films play at one time, and the others wait in line", self.capacity())
        return model

    def capacity(self) -> int:
        """Return how many films can play at one time; of a loaded model."""
        if self._settings.capacity is not None:
            return self._settings.capacity
        return self._scheduler.throughput.films(self._frame_rate_hz)

    @property
    def tried(self) -> bool:
        """Whether loading has ended, in a model or in an error."""
        return self._loading is not None and self._loading.done()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        loading = self._loading
        return loading is not None and loading.done() and loading.exception() is None

    def progress(self) -> Loading:
        """Return the message that tells how far loading is."""
        return Loading(
            model=model_name(self._settings.model),
            seconds=round(time.monotonic() - self._begun_s, 1),
        )

    async def give_up(self) -> None:
        """End the loading, if it is under way, and return when it has ended."""
        self._cancellation.cancel()
        if self._loading is not None:
            await asyncio.wait({self._loading}, timeout=_GIVEN_UP_S)

    async def close(self) -> None:
        """Give the loading up, or close the model."""
        self._cancellation.cancel()
        if self._loading is None:
            return
        try:
            model = await self._loading
        except (ShotStreamError, LoadingCancelled):
            return
        await asyncio.to_thread(model.close)
