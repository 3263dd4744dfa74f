"""Trains the nano codec on drawn clips; resumable.

Called by ``python -m shotstream_distill train-codec``. Characters count more than background, edges
more than areas. With a frozen encoder every latent bank and every student stays valid.
"""

from __future__ import annotations

import logging
import math
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from shotstream_rt.model.nano.codec import NanoCodecNet

from ..common.timed_trainer import TimedTrainer
from .clips import draw_clip, stack
from .codec_state import CodecConfig, CodecState
from .student_errors import rough_latents

_log = logging.getLogger("shotstream_distill.codec.train_codec")

JUDGED_CLIPS = 48
"""Unseen clips that before and after are measured on."""

_JUDGED_ROUGHNESS = 0.3
_CHECKPOINT_S = 60.0
_JUDGED_EVERY = 10  # reports: judging takes as long as many steps


@torch.no_grad()
def judge(
    net: NanoCodecNet, clips: list[tuple[Tensor, Tensor]], noise: float = 0.0
) -> dict[str, float]:
    """Return the mean peak signal-to-noise ratio in dB of frames, and of characters alone.

    Args:
        net: the codec.
        clips: of ``draw_clip``.
        noise: what is added to the latents, see ``rough_latents``; always the same.
    """
    generator = torch.Generator().manual_seed(0)
    level = torch.full((1, 1, 1, 1, 1), noise)
    whole, subject = [], []
    for clip in clips:
        frames, masks = stack([clip])
        out, _ = net.decode(rough_latents(net.encode(frames), level, generator), None)
        squared = ((out.clamp(-1, 1) - frames) / 2).square()
        whole.append(-10 * math.log10(float(squared.mean())))
        if masks.sum() > 0:
            error = float((squared * masks).sum() / (3 * masks.sum()))
            subject.append(-10 * math.log10(error))
    return {
        "psnr_db": sum(whole) / len(whole),
        "psnr_subject_db": sum(subject) / max(len(subject), 1),
    }


class CodecTrainer(TimedTrainer[CodecState]):
    """The loop over a bank of clips that is renewed clip by clip.

    Args:
        config: the recipe.
        run: folder of the checkpoint.
        start: weights to begin with; ``None`` for new ones.
        seed: of weights, clips and noise.
    """

    def __init__(self, config: CodecConfig, run: Path, start: Path | None, seed: int) -> None:
        super().__init__(
            run / "codec.pt", CodecState(config, start, seed), checkpoint_s=_CHECKPOINT_S
        )
        self._seed = seed
        self._rng = random.Random(seed)
        self._clips: list[tuple[Tensor, Tensor]] = []
        self._reports = 0
        rng = random.Random(seed + 12345)
        self._held_out = [draw_clip(rng, 9) for _ in range(JUDGED_CLIPS)]

    def prepare(self) -> None:
        """Draw the bank of clips; a resumed run draws others."""
        config, state = self.state.config, self.state
        self._rng = random.Random(self._seed + state.step)
        self._clips = [draw_clip(self._rng, config.clip_frames) for _ in range(config.bank)]
        figures = self.judged(state.averaged(self._clips[:200]))
        _log.info("%d clips drawn, step %d: %s", len(self._clips), state.step, figures)

    def advance(self, progress: float) -> None:
        """Replace one clip, then take a step."""
        config, state = self.state.config, self.state
        scale = min(1.0, (state.step + 1) / 50)
        if progress > config.decay_from:
            scale *= (1 - progress) / (1 - config.decay_from)
        clip = draw_clip(self._rng, config.clip_frames)
        self._clips[self._rng.randrange(len(self._clips))] = clip
        self.note({"loss": state.learn(self._rng.sample(self._clips, config.batch), scale)})

    def reported(self) -> None:
        """Judge the codec now and then."""
        self._reports += 1
        if self._reports % _JUDGED_EVERY == 0:
            figures = self.judged(self.state.averaged(self._clips[:200]))
            _log.info("unseen clips: %s", figures)

    def judged(self, net: NanoCodecNet) -> dict[str, float]:
        """Measure a codec on unseen clips, on rough latents too where it learns to read them."""
        config = self.state.config
        figures = judge(net, self._held_out)
        if config.rough_share > 0:
            rough = judge(net, self._held_out, _JUDGED_ROUGHNESS)
            figures |= {f"rough_{name}": value for name, value in rough.items()}
        if config.keep_latents > 0:
            figures["moved"] = self.state.moved(net, self._held_out)
        return figures

    def write_product(self, path: Path) -> dict[str, float]:
        """Write the averaged codec in bfloat16; returns its figures."""
        net = self.state.averaged(self._clips[:400])
        partial = path.with_suffix(".partial")
        save_file({n: v.bfloat16() for n, v in net.state_dict().items()}, str(partial))
        partial.replace(path)
        return self.judged(net)


def train_codec(
    run: Path, start: Path | None, minutes: float, config: CodecConfig | None = None, seed: int = 0
) -> dict[str, float]:
    """Run or resume the training; writes ``codec.safetensors`` into the run folder.

    Args:
        run: folder of checkpoints, made if missing.
        start: weights to start a new run from; ``None`` for none.
        minutes: wall time in total.
        config: the recipe.
        seed: of clips and noise.

    Returns:
        ``psnr_db`` and ``psnr_subject_db`` on unseen clips, on rough latents too if those were
        trained on, ``moved`` if latents were to be kept, and ``steps``.
    """
    torch.set_num_threads(1)
    # Blocks that begin as the identity have gradients below float32's normal numbers, on which a
    # CPU's convolutions are ten times slower.
    torch.set_flush_denormal(True)
    run.mkdir(parents=True, exist_ok=True)
    trainer = CodecTrainer(config or CodecConfig(), run, start, seed)
    trainer.train(60 * minutes)
    figures = trainer.write_product(run / "codec.safetensors")
    return {**figures, "steps": float(trainer.state.step)}
