"""How much two pictures show the same character, or the same scene: cosines of fitted descriptors.

Called by the evaluation. It stands where the paper compares DINO and CLIP features: descriptors
(inner features of the detector and colour statistics, over a character or over the background) are
projected onto the directions in which *different* characters or scenes of the world differ most,
relative to how one of them varies between frames and framings (linear discriminants), each
direction scaled alike. That separates kinds, colours, clothes, places and tints; the exact hue of a
coat hardly shows, its use is measured by swaps (``context_swap``). ``fit`` needs drawn stories;
the result is a small file beside the detector's weights, to be fitted again when those change.

Source: Fisher (1936), Rao (1948) for the discriminants.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.nano.vocabulary import SPECIES

from .detectors import Sight

IDENTITY_FILE = Path(__file__).parent / "weights" / "identity.safetensors"

_LEAST_AREA = 0.006
_LEAST_BACKGROUND = 0.05
_RIDGE = 0.01
_SUBJECT_DIMS, _SCENE_DIMS = 16, 5


def _statistics(pixels: Tensor) -> Tensor:
    return torch.cat((pixels.mean(1), pixels.median(1).values, pixels.std(1)))


def _pooled(features: Tensor, mask: Tensor) -> Tensor:
    weights = F.avg_pool2d(mask.float()[None, None], 4)[0, 0]
    return (features * weights).sum((1, 2)) / weights.sum()


def _or(mask: Tensor, least: int, otherwise: Tensor) -> Tensor:
    return mask if int(mask.sum()) > least else otherwise


def subject_descriptor(sight: Sight, row: int, species: str) -> Tensor | None:
    """Describe the character of a species in one frame; ``None`` when it is not there.

    Args:
        sight: what the detector saw in some frames.
        row: number of the frame.
        species: of the character.
    """
    mask = sight.mask(species)[row]
    area = mask.sum()
    if float(area) / mask.numel() < _LEAST_AREA:
        return None
    small, marks = sight.small[row], sight.marks[row]
    coat = _or(mask & marks[0], 12, mask)
    rest = _or(mask & ~coat, 4, mask)
    worn = mask & (marks[1] | marks[2])
    cloth = small[:, worn].mean(1) if int(worn.sum()) > 6 else torch.zeros(3)
    kind = F.one_hot(torch.tensor(SPECIES.index(species)), len(SPECIES)).float()
    shares = torch.stack([(marks[i] & mask).sum() / area for i in (1, 2)])
    return torch.cat(
        (
            _pooled(sight.features[row], mask), _statistics(small[:, coat]),
            _statistics(small[:, rest]), shares, cloth, kind,
        )
    )  # fmt: skip


def scene_descriptor(sight: Sight, row: int) -> Tensor | None:
    """Describe the background of one frame; ``None`` when characters cover nearly all of it."""
    taken = F.max_pool2d((sight.classes[row] > 0).float()[None], 5, 1, 2)[0]
    free = taken == 0
    if float(free.float().mean()) < _LEAST_BACKGROUND:
        return None
    small = sight.small[row]
    half = free.shape[0] // 2
    upper, lower = free.clone(), free.clone()
    upper[half:], lower[:half] = False, False
    parts = [small[:, _or(part, 20, free)].mean(1) for part in (upper, lower)]
    return torch.cat((_pooled(sight.features[row], free), _statistics(small[:, free]), *parts))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Discriminants:
    """A linear map to a space where one identity stays together and different ones part.

    Attributes:
        means: ``[groups, n]`` subtracted by group, the same for all where there are no groups.
        scale: ``[n]`` divided by.
        project: ``[n, dims]``.
    """

    means: Tensor
    scale: Tensor
    project: Tensor

    @classmethod
    def fit(cls, x: Tensor, identity: Tensor, group: Tensor, dims: int) -> Discriminants:
        """Fit to descriptors ``[m, n]`` with identities and groups, both int64 ``[m]``.

        Args:
            x: descriptors ``[m, n]``.
            identity: int64 ``[m]``; equal numbers are one character or scene.
            group: int64 ``[m]``; each group is centred by itself.
            dims: directions to keep.
        """
        groups = int(group.max()) + 1
        means = torch.stack([x[group == g].mean(0) for g in range(groups)])
        centred = x - means[group]
        scale = centred.std(0) + 1e-3
        z = (centred / scale).double()
        names, index = identity.unique(return_inverse=True)
        own = torch.stack([z[index == i].mean(0) for i in range(len(names))])
        inside = z - own[index]
        within = inside.T @ inside / len(z) + _RIDGE * torch.eye(z.shape[1], dtype=z.dtype)
        whiten = torch.linalg.inv(torch.linalg.cholesky(within))
        values, vectors = torch.linalg.eigh(whiten @ torch.cov(own.T) @ whiten.T)
        best = (whiten.T @ vectors.flip(1))[:, :dims] / (1 + values.flip(0)[:dims]).sqrt()
        return cls(means=means, scale=scale, project=best.float())

    def embed(self, x: Tensor, group: int = 0) -> Tensor:
        """Return the unit vector ``[dims]`` of one descriptor."""
        return F.normalize((x - self.means[group]) / self.scale @ self.project, dim=0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IdentitySpace:
    """The two spaces: characters, and scenes within their place."""

    subject: Discriminants
    scene: Discriminants

    @classmethod
    def load(cls, path: Path = IDENTITY_FILE) -> IdentitySpace:
        """Read the spaces shipped with this package, or others.

        Raises:
            WeightsError: the file is missing or is not one of ``save``.
        """
        if not path.is_file():
            raise WeightsError(f"identity: no file {path}; run fit-identity or reinstall")
        tensors = load_file(str(path))
        try:
            spaces = {
                kind: Discriminants(
                    **{name: tensors[f"{kind}.{name}"] for name in ("means", "scale", "project")}
                )
                for kind in ("subject", "scene")
            }
        except KeyError as error:
            raise WeightsError(f"identity: {path} lacks {error}; run fit-identity") from error
        return cls(**spaces)

    def save(self, path: Path) -> None:
        """Write the spaces."""
        tensors = {
            f"{kind}.{name}": getattr(getattr(self, kind), name).contiguous()
            for kind in ("subject", "scene")
            for name in ("means", "scale", "project")
        }
        save_file(tensors, str(path))
        path.chmod(0o644)

    @classmethod
    def fit(
        cls, subjects: tuple[Tensor, Tensor], scenes: tuple[Tensor, Tensor, Tensor]
    ) -> IdentitySpace:
        """Fit both: (descriptors, characters) and (descriptors, stories, places)."""
        x, identity = subjects
        return cls(
            subject=Discriminants.fit(x, identity, torch.zeros_like(identity), _SUBJECT_DIMS),
            scene=Discriminants.fit(*scenes, _SCENE_DIMS),
        )

    def subject_vector(self, sight: Sight, row: int, species: str) -> Tensor | None:
        """Return a character's unit vector in one frame, ``None`` when it is not there.

        Args:
            sight: what the detector saw in some frames.
            row: number of the frame.
            species: of the character.
        """
        found = subject_descriptor(sight, row, species)
        return None if found is None else self.subject.embed(found)

    def scene_vector(self, sight: Sight, row: int) -> Tensor | None:
        """Return the background's unit vector in one frame.

        Half of it is the place, half the scene within that place, so that another scene of the
        same place is worth 0.5 on average and another place 0.
        """
        found = scene_descriptor(sight, row)
        if found is None:
            return None
        place = sight.places[row]
        own = self.scene.embed(found, int(place.argmax()))
        return torch.cat((F.normalize(place, dim=0), own)) / 2**0.5
