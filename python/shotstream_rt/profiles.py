"""Named profiles: what may be traded for speed, and what each trade changes.

``exact`` computes what the original computes. Every other profile is lossy, off by default, asked
for by name and told in ``Session.stats``, in records and in the log; a profile that cannot run is
an error, never another profile. Read by the loader, the commands and the bench; holds data only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from .checks import check_one_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One profile.

    Attributes:
        name: what callers say.
        summary: one line.
        changes: what is computed differently from ``exact``, one line; empty for ``exact``.
        needs: files or models it needs beyond those of ``exact``, one line; empty for none.
        decoder: which network turns latents into frames: the ``codec``'s own, or the ``tiny`` one.
        latents_tolerance: relative distance of latents to the float32 oracle up to which the bench
            takes a run as what the profile means to compute; None: that of exact latents.
    """

    name: str
    summary: str
    changes: str = ""
    needs: str = ""
    decoder: Literal["codec", "tiny"] = "codec"
    latents_tolerance: float | None = None

    @property
    def lossy(self) -> bool:
        """Whether frames differ from those of ``exact`` by more than rounding."""
        return bool(self.changes)

    def describe(self) -> dict[str, str | bool]:
        """Return plain JSON types."""
        return {
            "summary": self.summary,
            "lossy": self.lossy,
            "changes": self.changes,
            "needs": self.needs,
        }


EXACT = Profile(name="exact", summary="what the original computes")

TINY = Profile(
    name="tiny",
    summary="frames from a tiny decoder, with 25 times less work than the Wan VAE's",
    changes=(
        "frames come from TAEHV's decoder, with less detail; context frames of later shots are "
        "these frames, encoded by the Wan VAE as ever, so later shots become other pictures too"
    ),
    needs=(
        "taew2_1.safetensors or taew2_1.pth in the checkpoint folder or its Wan folder; not for "
        "nano, whose codec is small"
    ),
    decoder="tiny",
)

PROFILES: Mapping[str, Profile] = MappingProxyType({p.name: p for p in (EXACT, TINY)})
"""Every profile by name, ``exact`` first."""


def find_profile(name: str) -> Profile:
    """Return the profile of a name.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    check_one_of("profile", name, tuple(PROFILES))
    return PROFILES[name]
