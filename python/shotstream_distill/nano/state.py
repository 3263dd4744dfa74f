"""Weights of a training run and how one step changes them.

Used by the flow-matching trainer and the distillation: working copies that compute, float32
masters that learn, a running average that ships, and both optimisers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import WeightsError
from shotstream_rt.model.nano.text import TEXT_LEN, NanoTextNet

from ..common.initial import init_parameters
from ..common.muon import Muon
from ..common.processes import Processes
from ..common.product import write_whole
from ..common.sequence import Captions, Parameters
from ..common.working_dtype import working_dtype
from ..world.bank import Batch
from .recipe import AUX_CLASSES


class NanoState:
    """Weights of a run: float32 masters, working copies, running average, optimisers.

    The copies are what is computed with, in ``working_dtype``.

    Args:
        model: the student's shape.
        muon_rate: learning rate of the block matrices.
        adam_rate: learning rate of everything else.
        seed: of the weights.
        processes: that average their gradients; default: one alone.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        muon_rate: float,
        adam_rate: float,
        seed: int,
        processes: Processes | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.processes = processes or Processes()
        masters = init_parameters(model, seed=seed, aux_classes=AUX_CLASSES)
        masters |= {f"text.{k}": v.detach() for k, v in NanoTextNet().state_dict().items()}
        self.names = list(masters)
        self.masters = [torch.nn.Parameter(v.clone()) for v in masters.values()]
        self.average = [m.detach().clone() for m in self.masters]
        self.working: Parameters = {
            n: m.detach().to(working_dtype(), copy=True).requires_grad_()
            for n, m in zip(self.names, self.masters, strict=True)
        }
        matrices = [
            n.startswith("blocks.") and m.ndim == 2
            for n, m in zip(self.names, self.masters, strict=True)
        ]
        self.muon = Muon(
            [m for m, yes in zip(self.masters, matrices, strict=True) if yes],
            learning_rate=muon_rate,
        )
        self._adam_rate = adam_rate
        self.adam = torch.optim.AdamW(
            [m for m, yes in zip(self.masters, matrices, strict=True) if not yes],
            lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0, foreach=True,
        )  # fmt: skip
        self.step = 0
        self.elapsed_s = 0.0

    @torch.no_grad()
    def apply(self, scale: float, average: float) -> None:
        """One optimiser step from the working copies' gradients."""
        working = list(self.working.values())
        for master, copy in zip(self.masters, working, strict=True):
            master.grad = torch.zeros_like(master) if copy.grad is None else copy.grad.float()
            copy.grad = None
        self.processes.average_gradients(self.masters)
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.muon.step(scale)
        for group in self.adam.param_groups:
            group["lr"] = self._adam_rate * scale
        self.adam.step()
        self.step += 1
        values = [m.detach() for m in self.masters]
        torch._foreach_copy_(working, values)
        keep = min(average, self.step / (self.step + 10))
        torch._foreach_lerp_(self.average, values, 1 - keep)

    def averaged(self, dtype: torch.dtype = torch.float32) -> Parameters:
        """Return the running average by name."""
        return {n: a.to(dtype) for n, a in zip(self.names, self.average, strict=True)}

    def write_between(self, path: Path, begun: Parameters, way: float) -> None:
        """Write as a product the weights ``way`` from ``begun`` to the average; the leader does.

        Above 1 they lie beyond it. A stage may go further for what it is paid for than is good for
        all else.

        Args:
            path: file to write.
            begun: weights that the stage began with.
            way: 0 for those, 1 for the average.

        Source: interpolating fine-tuned weights (WiSE-FT, Wortsman et al. 2022).
        """
        if not self.processes.leads:
            return
        learned = self.averaged()
        data = {
            "names": list(learned),
            "average": [begun[name].lerp(learned[name], way) for name in learned],
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        write_whole(path, data)

    def save(self, path: Path) -> None:
        """Write everything needed to go on, replacing the file; the leading process does."""
        if not self.processes.leads:
            return
        data = {
            "names": self.names,
            "masters": [m.detach() for m in self.masters],
            "average": self.average,
            "muon": self.muon.state(),
            "adam": self.adam.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        write_whole(path, data)

    @torch.no_grad()
    def start_from(self, values: Parameters) -> None:
        """Begin a new run from another run's weights, or a shipped student's.

        A student has no auxiliary head, and no rows for words that were appended after it was
        trained; those keep the first values of a new run.

        Raises:
            WeightsError: other names are missing.
        """
        missing = [n for n in self.names if n not in values and not n.startswith("aux.")]
        if missing:
            raise WeightsError(f"start: got no {missing[:4]}, wanted a nano student's weights")
        for name, master, average in zip(self.names, self.masters, self.average, strict=True):
            if name in values:
                given = values[name]
                master[: len(given)] = given
                average.copy_(master)
                self.working[name].copy_(master)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Go on from a file of ``save``."""
        data = torch.load(path, weights_only=True)
        for mine, saved in zip(self.masters, data["masters"], strict=True):
            mine.copy_(saved)
        torch._foreach_copy_(self.average, data["average"])
        torch._foreach_copy_(list(self.working.values()), [m.detach() for m in self.masters])
        self.muon.restore(data["muon"])
        self.adam.load_state_dict(data["adam"])
        self.step, self.elapsed_s = data["step"], data["elapsed_s"]


class CaptionEmbedder:
    """The nano text encoder as a function of a parameter dictionary."""

    def __init__(self) -> None:
        self._net = NanoTextNet()

    def __call__(self, p: Parameters, batch: Batch, keep: Tensor) -> Captions:
        """Embed a batch's captions, ``keep`` bool ``[B]``.

        Args:
            p: parameters; those under ``text.`` are used.
            batch: whose captions.
            keep: bool ``[B]``; false drops a sample's captions.
        """
        own = {k.removeprefix("text."): v for k, v in p.items() if k.startswith("text.")}
        width = max(int(batch.lengths.max()), 1)
        ids = batch.tokens[..., :width]
        flat = torch.func.functional_call(self._net, own, (ids.flatten(0, 1),))
        kept = flat.view(*ids.shape, -1) * keep[:, None, None, None].to(flat.dtype)
        lengths = batch.lengths * keep.long()[:, None]
        return Captions(embeddings=kept, lengths=lengths, text_len=TEXT_LEN)
