"""The four species: their parts, their accessories, and how a character is painted.

Called by ``render``. A character lives in a local frame: feet at y = 1, head top near y = -1,
looking to +x. Outlined parts make the silhouette; coat parts show the named colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shotstream_rt.model.nano.vocabulary import SPECIES

from .shapes import (
    INK,
    WHITE,
    Color,
    blend,
    box,
    capsule,
    coverage,
    ellipse,
    paint,
    tinted,
    triangle,
    union,
)
from .story import Character

PALETTE: dict[str, Color] = {
    "red": (0.88, 0.14, 0.14),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.99, 0.87, 0.16),
    "green": (0.22, 0.72, 0.26),
    "blue": (0.16, 0.38, 0.92),
    "purple": (0.56, 0.24, 0.80),
    "pink": (0.99, 0.56, 0.76),
    "white": (0.96, 0.96, 0.96),
}
HALF_HEIGHT = 0.46
"""World units from a character's centre to its feet, at size 1."""

MASK_HAT, MASK_SCARF, MASK_COAT = 16, 32, 64
_MASK_BIT = {"coat": MASK_COAT, "hat": MASK_HAT, "scarf": MASK_SCARF}

_PINK: Color = (0.98, 0.62, 0.68)
_ORANGE: Color = (0.99, 0.58, 0.06)
_GREY: Color = (0.70, 0.73, 0.78)
_DARK_GREY: Color = (0.45, 0.48, 0.54)
_SCREEN: Color = (0.10, 0.13, 0.20)
_CYAN: Color = (0.35, 0.98, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pose:
    """Motion of one character over time, each ``[T, 1, 1]``."""

    center_x: Tensor
    center_y: Tensor
    leg_swing: Tensor
    wing_flap: Tensor
    tail_sway: Tensor
    face: Tensor
    stretch: Tensor


@dataclass(slots=True, kw_only=True, eq=False)
class _Part:
    distance: Tensor
    color: Color
    outlined: bool
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wear:
    """Where accessories sit: neck and head-top heights, half width of the head."""

    neck: float
    top: float
    half_width: float


class _Sketch:
    """Collects a character's parts from back to front."""

    def __init__(self, character: Character, x: Tensor, y: Tensor, pose: Pose) -> None:
        self.x, self.y, self.pose, self.who = x, y, pose, character
        self.parts: list[_Part] = []
        self.coat = tinted(PALETTE[character.color], character.hue)
        self.dark = [v * 0.74 for v in self.coat]
        self.light = blend(self.coat, WHITE, 0.62)

    def add(self, distance: Tensor, color: Color, outlined: bool = True, kind: str = "") -> None:
        self.parts.append(_Part(distance=distance, color=color, outlined=outlined, kind=kind))

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> Tensor:
        return ellipse(self.x, self.y, cx, cy, rx, ry)

    def box(
        self, cx: float | Tensor, cy: float | Tensor, rx: float, ry: float, corner: float = 0.02
    ) -> Tensor:
        return box(self.x - cx, self.y - cy, 0.0, 0.0, rx, ry, corner)

    def line(
        self, ax: float | Tensor, ay: float | Tensor, bx: float | Tensor, by: float | Tensor,
        radius: float,
    ) -> Tensor:  # fmt: skip
        return capsule(self.x, self.y, (ax, ay), (bx, by), radius)

    def moving_ellipse(
        self, cx: float | Tensor, cy: float | Tensor, rx: float, ry: float
    ) -> Tensor:
        return ellipse(self.x - cx, self.y - cy, 0.0, 0.0, rx, ry)

    def eyes(
        self, xs: tuple[float, ...], cy: float, white: tuple[float, float],
        pupil: tuple[float, float],
    ) -> None:  # fmt: skip
        e = self.who.eye
        look = 0.25 * white[0]
        for cx in xs:
            self.add(self.ellipse(cx, cy, white[0] * e, white[1] * e), WHITE, False)
        for cx in xs:
            self.add(self.ellipse(cx + look, cy + 0.02, pupil[0] * e, pupil[1] * e), INK, False)
        for cx in xs:
            glint = (cx + look + 0.35 * pupil[0], cy - 0.35 * pupil[1])
            self.add(self.ellipse(*glint, 0.38 * pupil[0], 0.34 * pupil[1]), WHITE, False)


def _cat(s: _Sketch) -> _Wear:
    sway, swing, belly = s.pose.tail_sway, s.pose.leg_swing, s.who.belly
    bend = (-0.80, 0.62 + 0.05 * sway)
    tip_x = -1.0 + 0.10 * sway
    tail = union(s.line(-0.30, 0.74, *bend, 0.11), s.line(*bend, tip_x, -0.02, 0.11))
    s.add(tail, s.coat, True, "coat")
    s.add(s.moving_ellipse(tip_x, -0.06, 0.13, 0.15), s.light)
    feet = [s.moving_ellipse(q * 0.25 + 0.01 - q * 0.22 * swing, 0.92, 0.22, 0.13) for q in (-1, 1)]
    s.add(union(*feet), s.dark, True, "coat")
    s.add(s.ellipse(0, 0.52, 0.50, 0.44), s.coat, True, "coat")
    s.add(s.ellipse(0.06, 0.60, 0.16 + 0.18 * belly, 0.14 + 0.18 * belly), s.light, False)
    ears = (
        triangle(s.x, s.y, (-0.64, -1.28), (-0.78, -0.10), -0.45),
        triangle(s.x, s.y, (0.64, -1.28), (0.10, 0.78), -0.45),
    )
    s.add(union(*ears), s.coat, True, "coat")
    linings = (
        triangle(s.x, s.y, (-0.60, -1.06), (-0.64, -0.28), -0.62),
        triangle(s.x, s.y, (0.60, -1.06), (0.28, 0.64), -0.62),
    )
    s.add(union(*linings), _PINK, False)
    s.add(s.ellipse(0, -0.32, 0.80, 0.56), s.coat, True, "coat")
    stripes = (
        s.line(0, -0.86, 0, -0.66, 0.055),
        s.line(-0.22, -0.83, -0.18, -0.68, 0.05),
        s.line(0.22, -0.83, 0.18, -0.68, 0.05),
    )
    s.add(union(*stripes), s.dark, False)
    muzzle = union(s.ellipse(-0.03, -0.09, 0.19, 0.15), s.ellipse(0.23, -0.09, 0.19, 0.15))
    s.add(muzzle, WHITE, False)
    whiskers = [
        s.line(q * 0.42 + 0.1, -0.12 + 0.03 * k, q * 0.98 + 0.04, -0.2 + 0.18 * k, 0.02)
        for q in (-1, 1)
        for k in (0, 1)
    ]
    s.add(union(*whiskers), INK, False)
    s.eyes((-0.28, 0.42), -0.38, (0.20, 0.22), (0.125, 0.165))
    s.add(s.ellipse(0.10, -0.19, 0.10, 0.07), (0.95, 0.36, 0.45), False)
    return _Wear(neck=0.16, top=-0.84, half_width=0.44)


def _bunny(s: _Sketch) -> _Wear:
    sway, swing, belly = s.pose.tail_sway, s.pose.leg_swing, s.who.belly
    s.add(s.ellipse(-0.50, 0.62, 0.22, 0.21), WHITE)
    for color, root, tip, width in ((s.coat, -0.60, -1.42, 0.175), (_PINK, -0.72, -1.36, 0.08)):
        outer = width > 0.1
        for cx in (-0.30, 0.24):
            ear = s.line(cx, root, cx * 1.25 - 0.06 + 0.05 * sway, tip, width)
            s.add(ear, color, outer, "coat" if outer else "")
    s.add(s.ellipse(0, 0.52, 0.45, 0.44), s.coat, True, "coat")
    feet = [s.moving_ellipse(cx - q * 0.24 * swing, 0.90, rx, 0.14)
            for cx, q, rx in ((-0.20, -1, 0.32), (0.30, 1, 0.32))]  # fmt: skip
    s.add(union(*feet), blend(s.coat, WHITE, 0.35), True, "coat")
    s.add(s.ellipse(0.05, 0.55, 0.14 + 0.18 * belly, 0.14 + 0.18 * belly), s.light, False)
    s.add(s.ellipse(0, -0.30, 0.60, 0.52), s.coat, True, "coat")
    s.add(s.ellipse(0.10, -0.07, 0.26, 0.18), s.light, False)
    cheeks = union(s.ellipse(-0.38, -0.10, 0.11, 0.08), s.ellipse(0.50, -0.10, 0.09, 0.08))
    s.add(cheeks, (0.99, 0.50, 0.58), False)
    s.add(s.box(0.10, 0.07, 0.075, 0.08), WHITE, False)
    s.eyes((-0.20, 0.34), -0.36, (0.17, 0.21), (0.115, 0.16))
    s.add(s.ellipse(0.10, -0.15, 0.085, 0.06), (0.90, 0.30, 0.42), False)
    return _Wear(neck=0.18, top=-0.74, half_width=0.38)


def _robot(s: _Sketch) -> _Wear:
    swing, belly, e = s.pose.leg_swing, s.who.belly, s.who.eye
    s.add(s.line(0, -0.8, 0, -1.16, 0.05), _DARK_GREY)
    s.add(s.ellipse(0, -1.20, 0.14, 0.14), (1.0, 0.25, 0.2))
    for q in (-1, 1):
        arm = s.line(q * 0.50, 0.28, q * 0.74, 0.58 + 0.12 * q * swing, 0.10)
        hand = s.moving_ellipse(q * 0.74, 0.62 + 0.12 * q * swing, 0.14, 0.14)
        s.add(union(arm, hand), _GREY)
    legs = [s.box(q * 0.24 - q * 0.18 * swing, 0.82, 0.13, 0.18, 0.03) for q in (-1, 1)]
    s.add(union(*legs), _DARK_GREY)
    s.add(s.box(0, 0.38, 0.52, 0.36, 0.08), s.coat, True, "coat")
    s.add(s.box(0.04, 0.42, 0.16 + 0.2 * belly, 0.08 + 0.13 * belly, 0.04), s.light, False)
    ears = [s.box(q * 0.76, -0.40, 0.12, 0.18, 0.04) for q in (-1, 1)]
    s.add(union(*ears), _GREY)
    s.add(s.box(0, -0.42, 0.72, 0.46, 0.10), s.coat, True, "coat")
    s.add(s.box(0.06, -0.42, 0.54, 0.30, 0.10), _SCREEN, False)
    for cx in (-0.18, 0.32):
        s.add(s.box(cx, -0.46, 0.105 * e, 0.125 * e, 0.05), _CYAN, False)
    s.add(s.line(-0.04, -0.22, 0.18, -0.22, 0.035), _CYAN, False)
    return _Wear(neck=0.08, top=-0.86, half_width=0.50)


def _bird(s: _Sketch) -> _Wear:
    swing, lift, belly = s.pose.leg_swing, 0.30 * s.pose.wing_flap, s.who.belly
    tail = (s.line(-0.62, -0.02, -1.12, -0.32, 0.12), s.line(-0.62, 0.08, -1.16, -0.04, 0.12))
    s.add(union(*tail), s.dark, True, "coat")
    for q in (-1, 1):
        hip, step = 0.16 * q, 0.16 * q * swing
        leg = s.line(0.06 + hip, 0.62, 0.06 + hip - step, 0.92, 0.05)
        foot = s.line(0.02 + hip - step, 0.93, 0.26 + hip - step, 0.93, 0.06)
        s.add(union(leg, foot), _ORANGE)
    crest = (
        s.line(0.05, -0.70, -0.16, -1.10, 0.09),
        s.line(0.12, -0.70, 0.10, -1.18, 0.09),
        s.line(0.2, -0.68, 0.36, -1.04, 0.08),
    )
    s.add(union(*crest), s.dark, True, "coat")
    s.add(triangle(s.y + 0.08, s.x, (0, 1.32), (-0.34, 0.34), 0.46), _ORANGE)  # beak: axes swapped
    s.add(s.ellipse(0, 0.02, 0.80, 0.74), s.coat, True, "coat")
    s.add(s.ellipse(0.22, 0.38, 0.26 + 0.22 * belly, 0.20 + 0.16 * belly), s.light, False)
    s.add(s.line(0.76, -0.06, 1.1, -0.075, 0.025), (0.75, 0.36, 0.02), False)
    s.add(s.moving_ellipse(-0.30, 0.10 - lift * 0.5, 0.42, 0.26), s.dark, True, "coat")
    s.eyes((0.38,), -0.26, (0.23, 0.25), (0.14, 0.18))
    s.add(s.ellipse(0.50, 0.06, 0.11, 0.08), (0.99, 0.55, 0.55), False)
    return _Wear(neck=0.36, top=-0.66, half_width=0.42)


_SPECIES_PARTS: dict[str, Callable[[_Sketch], _Wear]] = {
    "cat": _cat,
    "bunny": _bunny,
    "robot": _robot,
    "bird": _bird,
}


def _dress(s: _Sketch, wear: _Wear) -> None:
    if s.who.accessory is None or s.who.accessory_color is None:
        return
    color = PALETTE[s.who.accessory_color]
    if s.who.accessory == "hat":
        width, top = wear.half_width, wear.top
        crown = s.box(0, top - 0.27, width * 0.68, 0.30, 0.05)
        brim = s.box(0, top + 0.02, width * 1.12, 0.085, 0.05)
        s.add(union(crown, brim), color, True, "hat")
        band = s.box(0, top - 0.13, width * 0.68, 0.06, 0.01)
        s.add(band, [v * 0.55 for v in color], False, "hat")
    elif s.who.species == "bird":
        folds = (
            s.line(-0.40, 0.40, -0.62, 0.72, 0.12),
            s.line(-0.44, 0.38, 0.10, 0.50, 0.12),
            s.line(0.10, 0.50, 0.64, 0.34, 0.12),
        )
        s.add(union(*folds), color, True, "scarf")
    else:
        end = s.box(-0.34, wear.neck + 0.26, 0.13, 0.26, 0.04)
        wrap = s.box(0, wear.neck, 0.46, 0.125, 0.11)
        s.add(union(end, wrap), color, True, "scarf")


def draw_character(
    image: Tensor, mask: Tensor | None, grid: tuple[Tensor, Tensor, Tensor], who: int,
    character: Character, pose: Pose,
) -> None:  # fmt: skip
    """Paint one character, inside its bounding box only.

    Args:
        image: ``[3, T, H, W]`` in [0, 1], changed in place.
        mask: uint8 ``[T, H, W]`` class masks, changed in place, or ``None``.
        grid: world x ``[T, 1, W]``, world y ``[T, H, 1]``, size of a pixel ``[T, 1, 1]``.
        who: 0 or 1, which of the story's characters.
        character: its looks.
        pose: its motion.
    """
    world_x, world_y, pixel = grid
    scale = HALF_HEIGHT * character.size
    local_x, local_y = (world_x - pose.center_x) / scale, (world_y - pose.center_y) / scale
    columns = (local_x.abs() < 1.5).any(0).flatten().nonzero().flatten()
    rows = ((local_y > -1.75) & (local_y < 1.12)).any(0).flatten().nonzero().flatten()
    if len(columns) == 0 or len(rows) == 0:
        return
    xs = slice(int(columns[0]), int(columns[-1]) + 1)
    ys = slice(int(rows[0]), int(rows[-1]) + 1)
    part_image = image[:, :, ys, xs].contiguous()
    # Squash and stretch with fixed feet; the width gives way.
    y = (local_y[:, ys] - 1) / pose.stretch + 1
    x = local_x[:, :, xs] * pose.face / (2 - pose.stretch)
    sketch = _Sketch(character, x, y, pose)
    _dress(sketch, _SPECIES_PARTS[character.species](sketch))
    for part in sketch.parts:
        part.distance = part.distance.expand(part_image.shape[1:])

    softness = pixel * 1.15 / scale
    width = torch.clamp(pixel / scale, min=0.05)
    ink = blend([v * 0.22 for v in sketch.coat], INK, 0.5)
    silhouette = union(*[part.distance for part in sketch.parts if part.outlined])
    paint(part_image, coverage(silhouette - width, softness), ink)
    for part in sketch.parts:
        opacity = coverage(part.distance, softness)
        if part.outlined:
            seam = coverage(part.distance - width * 0.55, softness) * 0.55
            paint(part_image, seam, ink)
        paint(part_image, opacity, part.color)
        if part.kind == "coat" and part.outlined:
            shade = ((y + 0.1) * 0.22).clamp(0, 0.16)
            paint(part_image, opacity * shade, (0, 0, 0))
    image[:, :, ys, xs] = part_image
    if mask is not None:
        label = 1 + 2 * SPECIES.index(character.species) + who
        part_mask = mask[:, ys, xs]
        part_mask[silhouette < 0] = label
        for part in sketch.parts:
            part_mask[part.distance < 0] = label | _MASK_BIT.get(part.kind, 0)
        mask[:, ys, xs] = part_mask
