"""The paper's own metrics, where their pretrained networks are at hand.

Called by ``python -m shotstream_distill evaluate --pretrained DIR``. Nothing is downloaded: ``DIR``
holds local copies in the layout of the ``transformers`` library, and what is missing is reported as
missing with what to put where, never replaced by something else. Each adapter turns key frames into
unit vectors (or scores); the figures are means of cosines, as the paper's protocols define them.

* ``dino``: DINOv2 (``facebook/dinov2-base``), consistency inside and between shots;
* ``clip``: CLIP (``openai/clip-vit-base-patch32``), the same, and text alignment;
* ``aesthetic``: CLIP ViT-L/14 in ``clip`` and LAION's linear head in ``head.safetensors``;
* ``viclip``: ViCLIP (InternVideo), semantic consistency; it needs code of its own, so it is always
  reported as missing.

Source: HoloCine and MultiShotMaster protocols as the paper names them, VBench (arXiv 2311.17982).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.errors import WeightsError


class FrameEncoder(Protocol):
    """Pictures, and for some networks texts, to unit vectors."""

    def pictures(self, frames: Tensor) -> Tensor:
        """Return ``[B, n]`` unit vectors of float frames ``[B, 3, H, W]`` in [0, 1]."""
        ...


def normalised(frames: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize frames to a square and normalise their channels as a network wants them."""
    square = F.interpolate(
        frames, (size, size), mode="bicubic", align_corners=False, antialias=True
    ).clamp(0, 1)
    return (square - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class Dino:
    """DINOv2's class token."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        self._net = AutoModel.from_pretrained(str(folder), local_files_only=True)
        self._net.train(False)

    @torch.inference_mode()
    def pictures(self, frames: Tensor) -> Tensor:
        """Return unit vectors of frames."""
        out = self._net(pixel_values=normalised(frames, 224, *_IMAGENET))
        return F.normalize(out.last_hidden_state[:, 0], dim=-1)


class Clip:
    """CLIP's projected embeddings of pictures and texts."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, CLIPModel

        self._net: Any = CLIPModel.from_pretrained(str(folder), local_files_only=True)
        self._net.train(False)
        self._words = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        config: Any = self._net.config.vision_config
        self._size = int(config.image_size)

    @torch.inference_mode()
    def pictures(self, frames: Tensor) -> Tensor:
        """Return unit vectors of frames."""
        pixels = normalised(frames, self._size, *_CLIP)
        seen = self._net.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self._net.visual_projection(seen), dim=-1)

    @torch.inference_mode()
    def text(self, caption: str) -> Tensor:
        """Return the unit vector of a caption."""
        tokens = self._words([caption], return_tensors="pt", truncation=True)
        read = self._net.text_model(**tokens).pooler_output
        return F.normalize(self._net.text_projection(read), dim=-1)[0]


class Aesthetic:
    """LAION's aesthetic score, 1 to 10, of CLIP embeddings."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self._clip = Clip(folder / "clip")
        path = folder / "head.safetensors"
        if not path.is_file():
            raise WeightsError(f"aesthetic: no {path}; wanted the linear head (weight, bias)")
        self._head = load_file(str(path))

    @torch.inference_mode()
    def score(self, frames: Tensor) -> Tensor:
        """Return ``[B]`` scores."""
        seen = self._clip.pictures(frames)
        return (seen @ self._head["weight"].float().T + self._head["bias"].float())[:, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Which adapters can be used, and why the others cannot."""

    usable: Mapping[str, Any]
    missing: Mapping[str, str]


_ADAPTERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "dino": (Dino, "DINOv2, for example a copy of facebook/dinov2-base"),
    "clip": (Clip, "CLIP, for example a copy of openai/clip-vit-base-patch32"),
    "aesthetic": (Aesthetic, "CLIP ViT-L/14 in clip/ and LAION's linear head, head.safetensors"),
}


def load_adapters(folder: Path) -> Availability:
    """Load every adapter whose files are there.

    Args:
        folder: one sub-folder a network.
    """
    usable: dict[str, Any] = {}
    missing = {"viclip": "ViCLIP has no loader in transformers; its figure is left out"}
    for name, (make, wanted) in _ADAPTERS.items():
        place = folder / name
        if not place.is_dir():
            missing[name] = f"no folder {place}; put {wanted} there"
            continue
        try:
            usable[name] = make(place)
        except ImportError as error:
            missing[name] = f"{error}; pip install 'shotstream_rt[text]'"
        except (OSError, ValueError, KeyError, WeightsError) as error:
            missing[name] = f"{place} cannot be loaded: {error}"
    return Availability(usable=usable, missing=missing)


def pair_cosines(vectors: Tensor) -> list[float]:
    """Cosines of all pairs of unit vectors ``[n, d]``."""
    cosine = vectors @ vectors.T
    return [float(cosine[a, b]) for a, b in combinations(range(len(vectors)), 2)]


def pretrained_figures(
    found: Availability, key_frames: Tensor, captions: Sequence[str]
) -> dict[str, list[float]]:
    """Measure one film.

    Args:
        found: of ``load_adapters``.
        key_frames: float ``[shots, n, 3, H, W]`` in [0, 1].
        captions: one a shot.

    Returns:
        Values by figure: ``dino_intra``, ``dino_inter``, ``clip_intra``, ``clip_inter`` (whole
        frames), ``clip_text`` (frame against its caption), ``aesthetic``.
    """
    shots, count = key_frames.shape[:2]
    flat = key_frames.flatten(0, 1)
    figures: dict[str, list[float]] = {}
    for name in ("dino", "clip"):
        if name not in found.usable:
            continue
        vectors = found.usable[name].pictures(flat).unflatten(0, (shots, count))
        figures[f"{name}_intra"] = [v for shot in vectors for v in pair_cosines(shot)]
        means = F.normalize(vectors.mean(1), dim=-1)
        figures[f"{name}_inter"] = pair_cosines(means)
        if name == "clip":
            told = torch.stack([found.usable[name].text(caption) for caption in captions])
            figures["clip_text"] = (vectors * told[:, None]).sum(-1).flatten().tolist()
    if "aesthetic" in found.usable:
        figures["aesthetic"] = found.usable["aesthetic"].score(flat).tolist()
    return figures
