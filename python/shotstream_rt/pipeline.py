"""THE HOT PATH: one shot, chunk by chunk.

    begin_shot: captions -> caption K/V;  context latents -> context slots
    run_chunk:  noise -> [denoise -> x0 -> next noise level] x passes -> x0
    commit:     x0 at time 0 -> local slots

Which frames a pass is over, what it reads and when a chunk is final is the policy's; the loop is
the same for all. Read top to bottom; nothing here allocates caches, looks at pixels or knows a
device. The session calls it from one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from .abandonment import ChunkAbandonedError, never
from .backends.base import FilmState
from .config import RolloutConfig, StreamConfig
from .device.transfer import send
from .errors import ConfigError
from .held_frames import HeldFrames
from .model.captions import CaptionSet
from .nvtx import annotate
from .plan.noise import NoiseSource, PassNoise
from .plan.policy import PassPlan, Roll, RolloutPolicy, policy_of
from .plan.schedule import COMMIT

__all__ = ["ChunkAbandonedError", "Pipeline"]


class Pipeline:
    """Denoises the chunks of one film's shots.

    Args:
        config: everything that decides the numbers.
        film: executes the planned passes; closed together with the pipeline.
        policy: plans them; default: the configuration's. The film's backend has the same one.

    Attributes:
        latent_shape: of one chunk's latents, ``(1, F, C, h, w)``; a shot's first chunk may have
            fewer frames.
        kept_back: newest chunks of which that is kept which they overwrite, so that a shot that has
            gone round the ring goes back by so many; 0 at first.
    """

    def __init__(
        self, config: StreamConfig, film: FilmState, policy: RolloutPolicy | None = None
    ) -> None:
        self.config, self.film, self.kept_back = config, film, 0
        self.policy = policy or policy_of(config)
        model, chunk_frames = config.model, config.shot.chunk_frames
        self.latent_shape = (
            1, chunk_frames, model.in_dim, model.latent_height, model.latent_width
        )  # fmt: skip
        noisy = (1, self.policy.noisy_frames, *self.latent_shape[2:])
        self._noise = PassNoise(config.schedule, noisy, dtype=film.dtype, device=film.device)
        self._window = config.local_frames
        self._shot = -1
        self._flag = 0
        self._captions = 0
        self._roll = Roll()
        # The shot's first chunks that are given, as they are; or what its first chunks are made of.
        self._given: list[Tensor] = []
        self._source: list[Tensor] = []
        self._strength = 1.0
        # Frames the cache has counted, and whether the last of them still need their clean pass.
        self._end, self._pending = 0, False
        # What a changed prompt computes anew, where it does.
        self._held: HeldFrames | None = None
        if config.rollout.prompt == "recache":
            self._held = HeldFrames(self._window, renews_sink=config.rollout.renew_sink)
        # Whether a chunk is all that there is to it: prompts and cuts leave the caches alone.
        self._by_chunk = config.rollout == RolloutConfig()
        # What a re-read computes anew: the newest chunks, by number, as they were planned and made.
        self._made: dict[int, tuple[PassPlan, Tensor]] = {}
        self._kept_chunks = self._window // self.latent_shape[1]
        # What puts back the keys and values that a chunk took the place of, by its number.
        self._overwritten: dict[int, Callable[[], None]] = {}
        # How the running shot began, where a cut keeps the caches: what puts them back.
        self._kept: tuple[Callable[[], None], Roll] | None = None

    def prepare_captions(self, captions: CaptionSet) -> None:
        """Compute what the next shot's passes need of its captions; changes nothing else.

        Args:
            captions: with their keys; some of those it will begin with.
        """
        self.film.prepare_captions(captions)

    def begin_shot(
        self,
        shot: int,
        context: Tensor,
        flags: Sequence[int],
        captions: CaptionSet,
        target_flag: int,
        *,
        given: Tensor | None = None,
        strength: float | None = None,
        chunks: int | None = None,
        abandoned: Callable[[], bool] = never,
    ) -> None:
        """Start a shot: caption keys and values, then the passes over frames that are known.

        Where a cut keeps the caches, the shot with the next number goes on behind the one before,
        and the same number once more begins where it began; otherwise a shot begins with the
        context alone, or with a given start.

        Args:
            shot: its number; addresses the noise.
            context: ``[1, context_frames, C, h, w]``; zeros for a film's first shot.
            flags: shot number of each context frame.
            captions: one for all frames, or one per shot in ``flags``, rising, and the new shot's.
            target_flag: phase number of the new shot.
            given: ``[1, F, C, h, w]``, clean latents of the shot's first chunks.
            strength: None keeps these chunks as they are, in the caches too. Otherwise they are
                made of what is given, as of a clean estimate, by this share of the denoising
                steps, above 0 and up to 1: rounded down, but at least one.
            chunks: length of the shot, if it is known that it will not be longer.
            abandoned: see ``FilmState``.

        Raises:
            ConfigError: shapes that do not fit the configuration or each other.
            ChunkAbandonedError: ``abandoned`` said yes.
        """
        shots, count = sorted(set(flags)), len(captions.lengths)
        wanted = (1, self.config.cache.context_frames, *self.latent_shape[2:])
        if tuple(context.shape) != wanted or len(flags) != wanted[1]:
            raise _unfit_context(context, flags, wanted)
        if count not in (1, len(shots) + 1):
            raise _unfit_captions(count, len(shots))
        self.film.abandoned = abandoned
        self._given, self._source = [], []
        if given is not None:
            self._split(given, strength, target_flag)
        if self.config.rollout.cut != "keep" or not self._continue(shot, chunks):
            before = sum(latents.shape[1] for latents in self._given)
            self._roll, self._end, self._pending = Roll(before=before, chunks=chunks), 0, False
            if self._held is not None:
                self._held.clear()
        self._shot, self._flag, self._captions = shot, target_flag, count
        self._made.clear()
        self._overwritten.clear()
        self.film.begin_shot(captions)
        if flags:
            rows = [shots.index(flag) if count > 1 else 0 for flag in flags]
            if context.device != self.film.device:
                context = send(context, self.film.device)
            latents, plan = context.to(self.film.dtype), self.policy.context(flags)
            with annotate("context.pass", shot):
                self.film.encode_context(plan, rows, latents)
        if self._given:
            self._encode_given()

    def change_captions(self, captions: CaptionSet, abandoned: Callable[[], bool] = never) -> None:
        """Replace the captions of the running shot, from the next pass on.

        What is in the caches is kept, or computed anew with the new captions, as the configuration
        says.

        Args:
            captions: as many as the shot began with.
            abandoned: asked between the layers of a pass.

        Raises:
            ConfigError: another number of captions, or a student whose shots keep theirs.
            ChunkAbandonedError: the caller no longer wants the shot.
        """
        if self.config.rollout.prompt == "refused":
            raise ConfigError(
                "prompt: got a new one, but this student's shots keep theirs: the chunks in flight "
                "carry the text they began with; cut instead"
            )
        if len(captions) != self._captions:
            raise ConfigError(
                f"captions: got {len(captions)}, wanted {self._captions} as at the shot's beginning"
            )
        self.film.change_captions(captions)
        if self._held is not None and self._end:
            self.film.abandoned = abandoned
            plan, self._roll = self.policy.recache(self._end, self._flag, self._roll)
            with annotate("context.pass", self._shot):
                self._encode(plan, self._held.recache(self._end, plan.frames))
            self._pending = False

    def reread(self, chunks: range, abandoned: Callable[[], bool] = never) -> None:
        """Compute keys and values of chunks anew, with the captions of now, in order.

        What each one's clean pass did is done once more: a chunk reads the context, what stands in
        the cache of the chunks before it, and itself. Given chunks keep what they have.

        Args:
            chunks: numbers within the shot; ``can_remake`` is true of each of them.
            abandoned: asked between the layers of a pass.

        Raises:
            ChunkAbandonedError: the caller no longer wants the shot.
        """
        self.film.abandoned = abandoned
        for chunk in chunks:
            if chunk in self._made:
                plan, latents = self._made[chunk]
                with annotate("commit", chunk):
                    self._encode(replace(plan, levels=((COMMIT,) * plan.frames,)), latents)

    def run_chunk(
        self, chunk: int, noise: NoiseSource, abandoned: Callable[[], bool] = never
    ) -> Tensor:
        """Denoise one chunk, and return its clean latents ``[1, F, C, h, w]`` on the film's device.

        They are valid until the next call.

        Args:
            chunk: number within the shot; in order from 0, given ones counted.
            noise: the shot's.
            abandoned: asked in front of each step and layer; ``ChunkAbandonedError`` if it says
                yes.
        """
        if chunk < len(self._given):
            return self._given[chunk]
        last = self.policy.chunk(self._shot, chunk - len(self._given), self._flag, self._roll)
        self.film.abandoned = abandoned
        if self.kept_back and self._by_chunk and last.end > self._window:
            self._keep_overwritten(chunk, last)
        for plan in (*last.lead_in, last):
            self._noise.draw(noise, self._shot, plan)
            if chunk < len(self._source):
                plan = self._noise.enter_late(plan, self._source[chunk], self._strength)
            entering = self._noise.buffer[:, :, : len(plan.writes)]
            self.film.begin_chunk(plan, self._captions - 1, entering)
            for step in range(len(plan.levels)):
                if abandoned():
                    raise ChunkAbandonedError
                with annotate("step", step):
                    x0 = self.film.denoise(step)
        x0 = x0[:, : last.chunks.count(last.chunk)]
        self._end, self._pending = last.end, True
        if self._held is not None:
            self._held.add(self._end, x0)
        elif self._by_chunk:
            self._made[chunk] = last, x0.clone()
            self._made.pop(chunk - self._kept_chunks, None)
        return x0

    def commit(self, abandoned: Callable[[], bool] = never) -> None:
        """Run the clean pass of the chunk just denoised, once; a shot's last chunk needs none.

        ``abandoned`` is asked between its layers; if it raises ``ChunkAbandonedError``, the pass
        may be run again.
        """
        if self._pending:
            self.film.abandoned = abandoned
            self.film.commit()
            self._pending = False

    def can_remake(self, chunk: int, last: int) -> bool:
        """Tell whether a chunk can be run again although those up to ``last`` have begun since.

        It can while nothing that it reads has been overwritten by them. Where prompts or cuts work
        on the caches, the shot is made again.
        """
        if not self._by_chunk:
            return False
        made, last = max(0, chunk - len(self._given)), last - len(self._given)
        plan = self.policy.chunk(self._shot, made, self._flag, self._roll)
        read = {slot for first, end in plan.reads[0] for slot in range(first, end)}
        later = (
            self.policy.chunk(self._shot, n, self._flag, self._roll)
            for n in range(made + 1, last + 1)
        )
        return (read - {*plan.writes}).isdisjoint(slot for p in later for slot in p.writes)

    def wind_back(self, chunk: int, last: int) -> int | None:
        """Bring the caches to where a chunk comes next although those up to ``last`` have begun.

        Args:
            chunk: number in the running shot.
            last: of those whose keys and values may be in the caches.

        Returns:
            The last chunk of which that is still so; None if the shot has to be made again.
        """
        if not self._by_chunk:
            return None
        begun = range(last, chunk - 1, -1)
        if not all(n in self._overwritten or not self._overwrites(n) for n in begun):
            return last if self.can_remake(chunk, last) else None
        for put_back in [self._overwritten.pop(n) for n in begun if n in self._overwritten]:
            put_back()
        return chunk - 1

    def _overwrites(self, chunk: int) -> bool:
        """Tell whether a chunk takes the place of frames that the window has left."""
        made = chunk - len(self._given)
        plan = self.policy.chunk(self._shot, made, self._flag, self._roll) if made >= 0 else None
        return plan is not None and plan.end > self._window

    def _keep_overwritten(self, chunk: int, plan: PassPlan) -> None:
        """Copy what a chunk is about to overwrite; one that begins once more has done so."""
        if chunk not in self._overwritten:
            self._overwritten[chunk] = self.film.keep(plan.writes)
            self._overwritten.pop(chunk - self.kept_back, None)

    def go_back(self, chunks: int) -> bool:
        """Take what is behind the first chunks of the running shot for not made, if that can be.

        It can where a changed prompt computes all keys anew that the next chunk reads, from frames
        that are still held; then ``change_captions`` is due before anything else.

        Args:
            chunks: how many stay.

        Returns:
            Whether it was done; if not, the shot has to be made again.
        """
        made = chunks - len(self._given)
        if self._held is None or made < 1:
            return False
        end = self.policy.chunk(self._shot, made - 1, self._flag, self._roll).end
        plan, _ = self.policy.recache(end, self._flag, self._roll)
        if end > self._end or not self._held.go_back(end, plan.frames):
            return False
        self._end, self._pending = end, False
        return True

    def close(self) -> None:
        """Release the film's memory."""
        if self._held is not None:
            self._held.clear()
        self._made.clear()
        self._overwritten.clear()
        self._given, self._source, self._kept = [], [], None
        self.film.close()

    def _split(self, given: Tensor, strength: float | None, flag: int) -> None:
        """Take a given start apart into the chunks that it stands for."""
        wanted = (1, given.shape[1], *self.latent_shape[2:])
        if tuple(given.shape) != wanted:
            raise ConfigError(f"given start: got {tuple(given.shape)}, wanted {wanted}")
        latents = send(given, self.film.device).to(self.film.dtype)
        lengths = [plan.frames for plan in self.policy.given(given.shape[1], flag)]
        if strength is None:
            self._given = list(latents.split(lengths, 1))
        else:
            self._source, self._strength = list(latents.split(lengths, 1)), strength

    def _continue(self, shot: int, chunks: int | None) -> bool:
        """Let a shot go on with what the cut keeps of the one before; False if it does not."""
        if shot == self._shot + 1 and self._end:
            self.commit(self.film.abandoned)
            roll = self._roll._replace(before=self._end, cut=True, chunks=chunks)
            self._kept = self.film.keep(), roll
            if not self._given:
                self._roll = roll
                return True
        elif shot == self._shot and self._kept is not None:  # the same shot once more
            if not self._given:
                put_back, self._roll = self._kept
                put_back()
                self._end, self._pending = self._roll.before, False
                return True
        else:
            self._kept = None
        return False

    def _encode_given(self) -> None:
        """Leave the keys and values of given chunks in their slots, as clean passes would."""
        plans = self.policy.given(self._roll.before, self._flag)
        for plan, latents in zip(plans, self._given, strict=True):
            self._encode(plan, latents)
            self._end += plan.frames
            if self._held is not None:
                self._held.add(self._end, latents)

    def _encode(self, plan: PassPlan, latents: Tensor) -> None:
        """Run a pass over frames of the shot that are known."""
        rows = [self._captions - 1] * len(plan.writes)
        latents = send(latents, self.film.device).to(self.film.dtype)
        self.film.encode_context(plan, rows, latents)


def _unfit_context(context: Tensor, flags: Sequence[int], wanted: tuple[int, ...]) -> ConfigError:
    return ConfigError(
        f"context: got latents {tuple(context.shape)} with {len(flags)} flag(s), wanted {wanted} "
        "and one flag per frame"
    )


def _unfit_captions(count: int, shots: int) -> ConfigError:
    return ConfigError(
        f"captions: got {count}, wanted 1 or {shots + 1} (one per shot in the context and the "
        "running shot's)"
    )
