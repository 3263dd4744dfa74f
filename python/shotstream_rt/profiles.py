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
        decoder: which network turns latents into frames: the ``codec``'s own, the ``tiny`` one, or
            the ``small`` one there is: tiny for the Wan VAE's latents, nano's own codec for nano.
        kernel_parts: lossy parts of the kernel set that it takes; see ``kernel_registry``.
        prunes_history: whether it takes the model's ``history.json``.
        fewer_steps: whether chunks after a shot's first have two denoising steps only.
        latents_tolerance: largest distance of a shot's latents to the profile's own float32 oracle
            that counts as correct; ``None`` for that of the type.
    """

    name: str
    summary: str
    changes: str = ""
    needs: str = ""
    decoder: Literal["codec", "tiny", "small"] = "codec"
    kernel_parts: tuple[str, ...] = ()
    prunes_history: bool = False
    fewer_steps: bool = False
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

_FP8_PRODUCTS = (
    "the student's linear layers multiply 8-bit numbers (e4m3) with a scale per token and per "
    "output channel"
)
_FP8_CHANGES = f"{_FP8_PRODUCTS}; attention stays in the model's type"
_FP8_NEEDS = (
    "on a GPU: sm_89 or later, and widths in multiples of 16; on a CPU the same numbers are "
    "imitated, slower than exact"
)
_FP8_TOLERANCE = 0.2
"""Twice what two right forms differ by after a shot of nano (0.05 to 0.1): a number between two
8-bit steps goes either way by its last bit, and passes amplify it. Broken kernels are further."""

FP8 = Profile(
    name="fp8",
    summary="linear layers of the student in 8 bits",
    changes=_FP8_CHANGES,
    needs=_FP8_NEEDS,
    kernel_parts=("fp8",),
    latents_tolerance=_FP8_TOLERANCE,
)

FP8_TINY = Profile(
    name="fp8-tiny",
    summary="profiles fp8 and tiny together",
    changes=f"{_FP8_CHANGES}; {TINY.changes}",
    needs=f"{_FP8_NEEDS}; {TINY.needs}",
    decoder="tiny",
    kernel_parts=("fp8",),
    latents_tolerance=_FP8_TOLERANCE,
)

_FP8_ARENA_NEEDS = (
    "a model that rotates keys as they are written; on a GPU: sm_89 or later; on a CPU the same "
    "numbers are imitated, slower than exact"
)

FP8_KEYS = Profile(
    name="fp8-keys",
    summary="self-attention's keys in 8 bits, in a KV cache three quarters as large",
    changes=(
        "self-attention multiplies queries with keys in 8-bit numbers (e4m3), with a scale per "
        "query and per head of the keys; values and all else stay in the model's type"
    ),
    needs=_FP8_ARENA_NEEDS,
    kernel_parts=("fp8-keys",),
    latents_tolerance=_FP8_TOLERANCE,
)

FP8_ATTENTION = Profile(
    name="fp8-attention",
    summary="self-attention in 8 bits, over a KV cache half as large",
    changes=(
        "self-attention multiplies queries with keys and weights with values in 8-bit numbers "
        "(e4m3), with a scale per query and per head of the keys and values; all else stays in the "
        "model's type"
    ),
    needs=_FP8_ARENA_NEEDS,
    kernel_parts=("fp8-attention",),
    latents_tolerance=_FP8_TOLERANCE,
)

FP8_ALL = Profile(
    name="fp8-all",
    summary="profiles fp8 and fp8-attention together",
    changes=f"{_FP8_PRODUCTS}; {FP8_ATTENTION.changes}",
    needs=f"{_FP8_NEEDS}; {_FP8_ARENA_NEEDS}",
    kernel_parts=("fp8", "fp8-attention"),
    latents_tolerance=2 * _FP8_TOLERANCE,
)
"""Two right forms differ by 0.19 after a shot of nano: twice as much is rounded as in either."""

FP8_FUSED = Profile(
    name="fp8-fused",
    summary="profile fp8-all with self-attention's result in 8 bits as it is computed",
    changes=(
        f"{FP8_ALL.changes}; self-attention's result is rounded to 8-bit numbers with one scale "
        "for all tokens of a layer"
    ),
    needs=FP8_ALL.needs,
    kernel_parts=("fp8", "fp8-attention", "fp8-out"),
    latents_tolerance=2 * _FP8_TOLERANCE,
)

FAST = Profile(
    name="fast",
    summary="8-bit linear layers, pruned history and the smallest decoder",
    changes=(
        f"{_FP8_CHANGES}; heads named in the model's history.json read the context and the last "
        f"frames, not the whole shot; where latents are the Wan VAE's, {TINY.changes}"
    ),
    needs=(
        f"{_FP8_NEEDS}; a history.json beside the weights (python -m shotstream_rt calibrate "
        "MODEL), which nano has; taew2_1.safetensors or taew2_1.pth where latents are the Wan VAE's"
    ),
    decoder="small",
    kernel_parts=("fp8",),
    prunes_history=True,
    latents_tolerance=_FP8_TOLERANCE,
)

TWO_STEP = Profile(
    name="two-step",
    summary="two denoising steps after a shot's first chunk",
    changes=(
        "chunks after a shot's first have the first and the middle one of the model's denoising "
        "steps; no model here was trained for that"
    ),
    needs=(
        "a model with three steps or more, the same for all chunks, that makes one chunk after the "
        "other; not for exported passes"
    ),
    fewer_steps=True,
)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        p.name: p
        for p in (
            EXACT,
            TINY,
            FP8,
            FP8_TINY,
            FP8_KEYS,
            FP8_ATTENTION,
            FP8_ALL,
            FP8_FUSED,
            FAST,
            TWO_STEP,
        )
    }
)
"""Every profile by name, ``exact`` first."""


def find_profile(name: str) -> Profile:
    """Return the profile of a name.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    check_one_of("profile", name, tuple(PROFILES))
    return PROFILES[name]
