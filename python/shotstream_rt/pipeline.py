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

from .abandonment import Abandoned, ChunkAbandonedError, never
from .backends.base import FilmState
from .config import RolloutConfig, StreamConfig
from .device.transfer import send
from .errors import ConfigError
from .held_frames import HeldFrames
from .model.captions import CaptionSet
from .nvtx import annotate
from .overwritten import Overwritten
from .plan.noise import NoiseSource, PassNoise
from .plan.policy import PassPlan, Roll, RolloutPolicy, policy_of
from .plan.schedule import COMMIT
from .running_shot import RunningShot
from .shot_inputs import ShotInputs

__all__ = ["ChunkAbandonedError", "Pipeline"]


class Pipeline:
    """Denoises the chunks of one film's shots.

    Where a method takes ``abandoned``, that is asked before each step of a chunk and each layer of
    a pass, and once it says yes the method raises ``ChunkAbandonedError``.

    Args:
        config: everything that decides the numbers.
        film: executes the planned passes; closed together with the pipeline.
        policy: plans them; default: the configuration's. The film's backend has the same one.

    Attributes:
        latent_shape: of one chunk's latents, ``(1, F, C, h, w)``; a shot's first chunk may have
            fewer frames.
        overwritten: keeps what chunks overwrite, so that the film can go back.
        running: the shot begun last.
    """

    def __init__(
        self, config: StreamConfig, film: FilmState, policy: RolloutPolicy | None = None
    ) -> None:
        self.config, self.film = config, film
        self.policy = policy or policy_of(config)
        model, chunk_frames = config.model, config.shot.chunk_frames
        self.latent_shape = (
            1, chunk_frames, model.in_dim, model.latent_height, model.latent_width
        )  # fmt: skip
        noisy = (1, self.policy.noisy_frames, *self.latent_shape[2:])
        self._noise = PassNoise(config.schedule, noisy, dtype=film.dtype, device=film.device)
        self._window = config.local_frames
        self.running = RunningShot(number=-1)
        # What a changed prompt computes anew, where it does.
        self._held: HeldFrames | None = None
        if config.rollout.prompt == "recache":
            self._held = HeldFrames(self._window, renews_sink=config.rollout.renew_sink)
        # Whether a chunk is all that there is to it: prompts and cuts leave the caches alone.
        self._by_chunk = config.rollout == RolloutConfig()
        self.overwritten = Overwritten(film, self.policy, self._window, by_chunk=self._by_chunk)
        self._kept_chunks = self._window // self.latent_shape[1]
        # How the running shot began, where a cut keeps the caches: what puts them back.
        self._kept: tuple[Callable[[], None], Roll] | None = None

    def begin_shot(self, begins: ShotInputs, abandoned: Abandoned = never) -> None:
        """Start a shot: caption keys and values, then the passes over frames that are known."""
        context, flags, captions = begins.context, begins.flags, begins.captions
        shots, count = sorted(set(flags)), len(captions.lengths)
        wanted = (1, self.config.cache.context_frames, *self.latent_shape[2:])
        if tuple(context.shape) != wanted or len(flags) != wanted[1]:
            raise _unfit_context(context, flags, wanted)
        if count not in (1, len(shots) + 1):
            raise _unfit_captions(count, len(shots))
        self.film.abandoned = abandoned
        begun = RunningShot(number=begins.shot, flag=begins.target_flag, captions=count)
        begun.roll = Roll(chunks=begins.chunks)
        if begins.given is not None:
            self._split(begun, begins.given, begins.strength)
        if not self._by_chunk:
            self._take_over(begun)
        plan = self.policy.context(flags) if flags else None
        if self.running.number >= 0:
            self.overwritten.begin_shot(self.running, begun, plan)
        self.running = begun
        self.film.begin_shot(captions)
        if plan is not None:
            rows = [shots.index(flag) if count > 1 else 0 for flag in flags]
            if context.device != self.film.device:
                context = send(context, self.film.device)
            with annotate("context.pass", begun.number):
                self.film.encode_context(plan, rows, context.to(self.film.dtype))
        if begun.given:
            self._encode_given(begun)

    def change_captions(self, captions: CaptionSet, abandoned: Abandoned = never) -> None:
        """Replace the captions of the running shot, from the next pass on.

        What is in the caches is kept, or computed anew with the new captions, as the configuration
        says.

        Args:
            captions: as many as the shot began with.
            abandoned: see ``Pipeline``.

        Raises:
            ConfigError: another number of captions, or a student whose shots keep theirs.
        """
        if self.config.rollout.prompt == "refused":
            raise ConfigError(
                "prompt: got a new one, but this student's shots keep theirs: the chunks in flight "
                "carry the text they began with; cut instead"
            )
        shot = self.running
        if len(captions) != shot.captions:
            raise ConfigError(
                f"captions: got {len(captions)}, wanted {shot.captions} as at the shot's beginning"
            )
        self.film.change_captions(captions)
        if self._held is not None and shot.end:
            self.film.abandoned = abandoned
            plan, shot.roll = self.policy.recache(shot.end, shot.flag, shot.roll)
            with annotate("context.pass", shot.number):
                self._encode(plan, self._held.recache(shot.end, plan.frames))
            shot.pending = False

    def reread(self, chunks: range, abandoned: Abandoned = never) -> None:
        """Compute keys and values of chunks anew, with the captions of now, in order.

        What each one's clean pass did is done once more: a chunk reads the context, what stands in
        the cache of the chunks before it, and itself. Given chunks keep what they have.

        Args:
            chunks: numbers within the shot; ``overwritten.can_remake`` is true of each of them.
            abandoned: see ``Pipeline``.
        """
        self.film.abandoned = abandoned
        for chunk in chunks:
            if chunk in self.running.made:
                plan, latents = self.running.made[chunk]
                with annotate("commit", chunk):
                    self._encode(replace(plan, levels=((COMMIT,) * plan.frames,)), latents)

    def run_chunk(self, chunk: int, noise: NoiseSource, abandoned: Abandoned = never) -> Tensor:
        """Denoise a chunk; return its clean latents ``[1, F, C, h, w]``, valid until the next call.

        Args:
            chunk: its number within the shot, in order from 0, given ones counted.
            noise: the shot's.
            abandoned: see ``Pipeline``.
        """
        shot, kept = self.running, self.overwritten
        if chunk < len(shot.given):
            return shot.given[chunk]
        last = self.policy.chunk(shot.number, chunk - len(shot.given), shot.flag, shot.roll)
        self.film.abandoned = abandoned
        if kept.shot_before is not None or (last.end > self._window and kept.kept_chunks):
            kept.begin_chunk(shot, chunk, last)
        for plan in (*last.lead_in, last):
            entering = self._noise.draw(noise, shot.number, plan)
            if chunk < len(shot.source):
                plan = self._noise.enter_late(plan, shot.source[chunk], shot.strength)
            self.film.begin_chunk(plan, shot.captions - 1, entering)
            for step in range(len(plan.levels)):
                if abandoned():
                    raise ChunkAbandonedError
                with annotate("step", step):
                    x0 = self.film.denoise(step)
        x0 = x0[:, : last.chunks.count(last.chunk)]
        shot.end, shot.pending = last.end, True
        if self._held is not None:
            self._held.add(shot.end, x0)
        elif self._by_chunk:
            shot.made[chunk] = last, x0.clone()
            shot.made.pop(chunk - self._kept_chunks, None)
        return x0

    def commit(self, abandoned: Abandoned = never) -> None:
        """Run the clean pass of the chunk just denoised, once; a shot's last chunk needs none.

        If it raises ``ChunkAbandonedError``, the pass may be run again.
        """
        if self.running.pending:
            self.film.abandoned = abandoned
            self.film.commit()
            self.running.pending = False

    def return_to(self, shot: RunningShot) -> bool:
        """Let the shot before the running one be the running one again, as it was left.

        Its captions have to be given once more (``change_captions``) before anything else. The
        clean pass of its last chunk, if it had none, cannot be made up for.

        Args:
            shot: what ``running`` was.

        Returns:
            Whether it was done. It is not if another shot began since, or if the running one has
            made more chunks than are kept in ``overwritten``.
        """
        if shot is not self.overwritten.shot_before:
            return False
        self.overwritten.leave(self.running)
        shot.pending, self.running = False, shot
        return True

    def go_back(self, chunks: int) -> bool:
        """Take what is behind the first chunks of the running shot for not made, if that can be.

        It can where a changed prompt computes all keys anew that the next chunk reads, from frames
        that are still held; then ``change_captions`` is due before anything else.

        Args:
            chunks: how many stay.

        Returns:
            Whether it was done; if not, the shot has to be made again.
        """
        shot = self.running
        made = chunks - len(shot.given)
        if self._held is None or made < 1:
            return False
        end = self.policy.chunk(shot.number, made - 1, shot.flag, shot.roll).end
        plan, _ = self.policy.recache(end, shot.flag, shot.roll)
        if end > shot.end or not self._held.go_back(end, plan.frames):
            return False
        shot.end, shot.pending = end, False
        return True

    def close(self) -> None:
        """Release the film's memory."""
        if self._held is not None:
            self._held.clear()
        self.running, self._kept = RunningShot(number=-1), None
        self.overwritten.clear()
        self.film.close()

    def _split(self, begun: RunningShot, given: Tensor, strength: float | None) -> None:
        """Take a given start apart into the chunks that it stands for."""
        wanted = (1, given.shape[1], *self.latent_shape[2:])
        if tuple(given.shape) != wanted:
            raise ConfigError(f"given start: got {tuple(given.shape)}, wanted {wanted}")
        latents = send(given, self.film.device).to(self.film.dtype)
        lengths = [plan.frames for plan in self.policy.given(given.shape[1], begun.flag)]
        if strength is None:
            begun.given = list(latents.split(lengths, 1))
            begun.roll = begun.roll._replace(before=given.shape[1])
        else:
            begun.source, begun.strength = list(latents.split(lengths, 1)), strength

    def _take_over(self, begun: RunningShot) -> None:
        """Keep of the shot before what this student's cuts keep, and no frames beside that."""
        continues = self.config.rollout.cut == "keep" and self._continue(begun)
        if self._held is not None and not continues:
            self._held.clear()

    def _continue(self, begun: RunningShot) -> bool:
        """Let a shot go on with what the cut keeps of the one before; False if it does not."""
        before = self.running
        if begun.number == before.number + 1 and before.end:
            self.commit(self.film.abandoned)
            chunks = begun.roll.chunks
            roll = before.roll._replace(before=before.end, cut=True, chunks=chunks)
            self._kept = self.film.keep(), roll
            if not begun.given:
                begun.roll, begun.end = roll, before.end
                return True
        elif begun.number == before.number and self._kept is not None:  # the same shot once more
            if not begun.given:
                put_back, begun.roll = self._kept
                put_back()
                begun.end = begun.roll.before
                return True
        else:
            self._kept = None
        return False

    def _encode_given(self, shot: RunningShot) -> None:
        """Leave the keys and values of given chunks in their slots, as clean passes would."""
        plans = self.policy.given(shot.roll.before, shot.flag)
        for plan, latents in zip(plans, shot.given, strict=True):
            self._encode(plan, latents)
            shot.end += plan.frames
            if self._held is not None:
                self._held.add(shot.end, latents)

    def _encode(self, plan: PassPlan, latents: Tensor) -> None:
        """Run a pass over frames of the shot that are known."""
        rows = [self.running.captions - 1] * len(plan.writes)
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
