"""What the policies are worth: films, their viewers and a director, on a clock without a model."""

from __future__ import annotations

from collections import deque

from shotstream_rt.serve.scheduler import Policy, Scheduler

RATE, FIRST, LATER = 16, 9, 12
STEP_S = 0.005


class Film:
    """Makes chunks in its turns and shows their frames when they are due.

    Args:
        scheduler: gives it turns.
        begins_s: when its first shot is asked for.
        cut_every_s: how often its director cuts; 0 for never.
    """

    def __init__(self, scheduler: Scheduler, begins_s: float, cut_every_s: float = 0.0) -> None:
        self.turn = scheduler.turn(lambda: max(self.due_s, self.asked_s), frame_rate_hz=RATE)
        self.due_s, self.asked_s, self.asks_s = 0.0, 0.0, begins_s
        self._cut_every_s = cut_every_s
        self.waiting: deque[int] = deque()  # frames of the chunks that are made
        self._open = self._made = self._shown = 0
        self._late_s, self._ready_s = 0.0, 0.0

    @property
    def ratio(self) -> float:
        """Share of the time in which the picture went on."""
        played_s = self._shown / RATE
        return played_s / (played_s + self._late_s)

    def step(self, now_s: float, chunk_s: float) -> None:
        """Do what is to be done at a time."""
        if now_s >= self.asks_s:
            self._ask(now_s)
        if self.turn.held and self._ready_s == 0:
            self._ready_s = now_s + chunk_s * (1.4 if self._made == 0 else 1.0)
        if self.turn.held and now_s >= self._ready_s:
            frames = FIRST if self._made == 0 else LATER
            self._made, self._ready_s = self._made + 1, 0.0
            self.waiting.append(frames)
            self.turn.give_back(frames)
            self.turn.decoded()
        self._show(now_s)
        if self.asked_s and not self.waiting and not self.turn.held:
            self.turn.take(self._open, bool)

    def _ask(self, now_s: float) -> None:
        """Cut: what was made and not shown is dropped."""
        self.asks_s = now_s + self._cut_every_s if self._cut_every_s else float("inf")
        self.asked_s, self._made, self._open, self._ready_s = now_s, 0, 0, 0.0
        self.waiting.clear()
        self.turn.hurry()
        self.turn.give_back(0)

    def _show(self, now_s: float) -> None:
        if now_s < self.due_s or not (self._open or self.waiting):
            return
        self._open = (self._open or self.waiting.popleft()) - 1
        late_s = now_s - max(self.due_s, self.asked_s)
        if late_s > 0.1:
            self._late_s += late_s
            self.due_s = now_s
        self.due_s = max(self.due_s, self.asked_s) + 1 / RATE
        self._shown += 1


def ratios(policy: Policy, films: int, load: float, cut_every_s: float = 0.0) -> list[float]:
    """Return every film's play ratio after two minutes.

    Args:
        policy: of the scheduler.
        films: how many play; the first one has the director.
        load: share of the device that they need if nobody cuts.
        cut_every_s: how often the director cuts.
    """
    now_s = 100.0
    scheduler = Scheduler(policy=policy, clock=lambda: now_s)
    made = [
        Film(scheduler, 100 + 0.31 * at, cut_every_s if at == 0 else 0.0) for at in range(films)
    ]
    chunk_s = load * LATER / RATE / films
    while now_s < 220:
        for film in made:
            film.step(now_s, chunk_s)
        now_s += STEP_S
    return [film.ratio for film in made]


def test_films_that_fit_play_without_a_stall() -> None:
    for films in (1, 4, 8):
        assert min(ratios("slack", films, load=0.9)) >= 0.98


def test_one_who_cuts_often_waits_less_and_the_others_hardly_stall() -> None:
    """A cut has no slack: by slack it is next, by arrival it is behind all that wait."""
    by_slack, by_arrival = (
        ratios(policy, 8, load=0.9, cut_every_s=1.0) for policy in ("slack", "first_come")
    )
    assert min(by_slack) >= 1.3 * min(by_arrival)
    assert min(by_slack[1:]) >= 0.95


def test_too_many_films_get_the_same() -> None:
    for policy in ("slack", "first_come"):
        found = ratios(policy, 8, load=2)
        assert max(found) <= 1.1 * min(found)
        assert min(found) >= 0.45
