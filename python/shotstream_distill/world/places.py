"""The six places at three times of day: sky, landmarks and ground.

Called by ``render``. Everything is placed by the story's hidden setting (phase, sun, amplitude,
horizon, tint), which shots of a story share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import (
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
from .story import Setting

GROUND_Y = 0.44
"""World height of the far edge of the ground."""

# Sky top, sky bottom, far landmark, near ground, far ground.
_PALETTES: dict[str, tuple[Color, Color, Color, Color, Color]] = {
    "beach": ((0.36, 0.68, 0.97), (0.80, 0.93, 0.99), (0.13, 0.52, 0.78), (0.97, 0.87, 0.62),
              (0.90, 0.78, 0.52)),
    "forest": ((0.62, 0.85, 0.92), (0.86, 0.95, 0.84), (0.20, 0.46, 0.22), (0.42, 0.70, 0.28),
               (0.30, 0.56, 0.22)),
    "snow-field": ((0.58, 0.74, 0.92), (0.88, 0.93, 0.98), (0.26, 0.48, 0.46),
                   (0.95, 0.97, 1.0), (0.84, 0.89, 0.96)),
    "night-city": ((0.05, 0.05, 0.18), (0.24, 0.17, 0.42), (0.13, 0.12, 0.26),
                   (0.30, 0.29, 0.38), (0.22, 0.21, 0.30)),
    "desert": ((0.97, 0.66, 0.36), (1.0, 0.87, 0.60), (0.82, 0.50, 0.28), (0.93, 0.70, 0.40),
               (0.86, 0.60, 0.33)),
    "room": ((0.93, 0.86, 0.76), (0.90, 0.80, 0.70), (0.86, 0.76, 0.66), (0.66, 0.44, 0.28),
             (0.58, 0.37, 0.23)),
}  # fmt: skip
MOVING_PLACES = frozenset({"beach", "forest"})
"""Places whose background moves (clouds, waves)."""

_SUNNY = ("beach", "desert", "snow-field")

_EVENING_SKIES: dict[str, tuple[Color, Color]] = {
    "at-sunset": ((0.44, 0.34, 0.62), (1.0, 0.62, 0.42)),
    "at-night": ((0.06, 0.08, 0.22), (0.20, 0.24, 0.46)),
}
"""Sky top and bottom as they are seen; ``_GLOOM`` is taken out of them before."""

_GLOOM: dict[str, Color] = {"at-sunset": (0.96, 0.78, 0.68), "at-night": (0.40, 0.46, 0.68)}
"""What is left of the colours of landmarks and ground."""

_MOON: Color = (0.98, 0.96, 0.82)
_LOW_SUN: Color = (1.0, 0.58, 0.30)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Canvas:
    """What is painted on.

    Attributes:
        image: ``[3, T, H, W]``, changed in place.
        x: world x ``[T, 1, W]``.
        y: world y ``[T, H, 1]``.
        soft: width of edges ``[T, 1, 1]``.
        time_s: ``[T, 1, 1]``.
        setting: the hidden variables.
    """

    image: Tensor
    x: Tensor
    y: Tensor
    soft: Tensor
    time_s: Tensor
    setting: Setting

    def over(self, opacity: Tensor, color: Color) -> None:
        """Paint the whole canvas."""
        paint(self.image, opacity.expand(self.image.shape[1:]), color)

    def fill(self, distance: Tensor, color: Color, strength: float = 1.0) -> None:
        """Paint a shape.

        Args:
            distance: signed distances ``[T, H, W]``, negative inside.
            color: RGB in [0, 1].
            strength: opacity inside.
        """
        self.over(coverage(distance, self.soft) * strength, color)

    def repeated(self, width: float, offset: float | Tensor) -> Tensor:
        """World x folded into repeating tiles, zero in each tile's middle."""
        return torch.remainder(self.x + offset, width) - width / 2


def _beach(c: Canvas, far: Color) -> None:
    s = c.setting
    sea = coverage(s.horizon - c.y, c.soft)
    c.over(sea, far)
    depth = ((c.y - s.horizon) / (GROUND_Y - s.horizon)).clamp(0, 1)
    c.over(sea * depth * 0.6, blend(far, WHITE, 0.5))
    for index, share in enumerate((0.3, 0.62)):
        line = s.horizon + (GROUND_Y - s.horizon) * share
        wave = 0.012 * torch.sin(c.x * 5 + s.phase_rad + c.time_s * 1.5 + 2 * index)
        c.fill((c.y - line - wave).abs() - 0.014, blend(far, WHITE, 0.75))
    q = c.repeated(3.4, s.phase_rad)
    trunk = capsule(q, c.y, (-0.05, GROUND_Y + 0.06), (0.12, -0.42), 0.045)
    c.fill(trunk, (0.58, 0.40, 0.24))
    leaves = [
        ellipse(q, c.y, *leaf)
        for leaf in ((-0.10, -0.40, 0.26, 0.075), (0.36, -0.40, 0.26, 0.075),
                     (0.02, -0.54, 0.18, 0.085), (0.26, -0.54, 0.18, 0.085))
    ]  # fmt: skip
    c.fill(union(*leaves), (0.20, 0.60, 0.28))


def _forest(c: Canvas, far: Color) -> None:
    s = c.setting
    hills = 0.16 + 0.10 * torch.sin(c.x * 2 + s.phase_rad) * s.amplitude - c.y
    c.fill(hills, blend(far, WHITE, 0.35))
    q = c.repeated(0.85 + 0.25 * s.amplitude, s.phase_rad)
    c.fill(box(q, c.y, 0, 0.2, 0.065, 0.30), (0.45, 0.30, 0.18))
    crowns = [
        ellipse(q, c.y, *crown)
        for crown in ((0, -0.28, 0.30, 0.32), (-0.18, -0.10, 0.2, 0.2), (0.18, -0.10, 0.2, 0.2))
    ]
    c.fill(union(*crowns), far)
    light = coverage(ellipse(q, c.y, 0.06, -0.36, 0.16, 0.16), c.soft * 6)
    c.over(light * 0.5, blend(far, (1, 1, 0.5), 0.35))


def _snow_field(c: Canvas, far: Color) -> None:
    s = c.setting
    hills = s.horizon - 0.06 + 0.16 * torch.sin(c.x * 1.6 + s.phase_rad) * s.amplitude - c.y
    c.fill(hills, tinted((0.80, 0.87, 0.96), s.tint))
    q = c.repeated(0.8 + 0.3 * s.amplitude, s.phase_rad)
    c.fill(box(q, c.y, 0, 0.40, 0.04, 0.1), (0.42, 0.30, 0.24))
    for base, half in ((0.36, 0.26), (0.14, 0.21), (-0.06, 0.16)):
        tip = (0.0, base - 0.32)
        c.fill(triangle(q, c.y, tip, (-half, half), base), far)
        cap = (-half * 0.42, half * 0.42)
        c.fill(triangle(q, c.y, tip, cap, base - 0.185), (0.95, 0.97, 1.0))


def _night_city(c: Canvas, far: Color) -> None:
    s = c.setting
    moon = ellipse(c.x, c.y, s.sun_x, -0.66, 0.17, 0.17)
    c.over(torch.exp(-moon.clamp(min=0) * 6) * 0.3, (0.8, 0.8, 1))
    c.fill(moon, (0.98, 0.96, 0.82))
    width = 0.56
    house = torch.floor((c.x + s.phase_rad) / width)
    tall = torch.sin(house * 2.7 + s.phase_rad) * 0.5 + 0.5
    height = 0.30 + 0.42 * tall * s.amplitude
    q = c.repeated(width, s.phase_rad)
    c.fill(torch.maximum(q.abs() - 0.25, GROUND_Y - 0.05 - height - c.y), far)
    column, row = (q + 0.25) / 0.125, (c.y - GROUND_Y + height) / 0.15
    window_x = torch.remainder(q + 0.25, 0.125) - 0.0625
    window_y = torch.remainder(c.y - GROUND_Y + height, 0.15) - 0.085
    draw = torch.sin(torch.floor(column) * 12.9 + torch.floor(row) * 78.2 + house * 3.3)
    lit = (draw > -0.1).float() * ((c.y - GROUND_Y + height) > 0.0) * (q.abs() < 0.25)
    window = torch.maximum(window_x.abs() - 0.036, window_y.abs() - 0.042)
    c.over(coverage(window, c.soft) * lit, (0.98, 0.85, 0.45))


def _desert(c: Canvas, far: Color) -> None:
    s = c.setting
    dunes = s.horizon + 0.02 + 0.15 * torch.sin(c.x * 1.3 + s.phase_rad) * s.amplitude - c.y
    c.fill(dunes, far)
    q = c.repeated(2.0, s.phase_rad)
    cactus = [
        capsule(q, c.y, start, end, radius)
        for start, end, radius in (
            ((0, 0.46), (0, -0.16), 0.085),
            ((0, 0.22), (0.22, 0.16), 0.055),
            ((0.22, 0.16), (0.22, -0.02), 0.055),
            ((0, 0.12), (-0.2, 0.06), 0.055),
            ((-0.2, 0.06), (-0.2, -0.10), 0.055),
        )
    ]
    c.fill(union(*cactus), (0.24, 0.55, 0.30))


def _room(c: Canvas, far: Color) -> None:
    s = c.setting
    stripe = torch.remainder(c.x + s.phase_rad, 0.56) - 0.28
    c.over(coverage(stripe.abs() - 0.14, c.soft) + 0 * c.y, far)
    q = c.x - s.sun_x
    frame, glass = (0.99, 0.98, 0.96), (0.62, 0.85, 0.98)
    c.fill(box(q, c.y, 0, -0.32, 0.38, 0.34), frame)
    c.fill(box(q, c.y, 0, -0.32, 0.32, 0.28), glass)
    bars = (box(q, c.y, 0, -0.32, 0.022, 0.3), box(q, c.y, 0, -0.32, 0.34, 0.022))
    c.fill(union(*bars), frame)
    q = c.repeated(3.0, s.phase_rad + s.sun_x + 1.5)
    c.fill(box(q, c.y, 0, -0.36, 0.2, 0.24), (0.55, 0.36, 0.22))
    picture = blend((0.95, 0.75, 0.35), (0.45, 0.65, 0.85), (s.amplitude - 0.6) / 0.8)
    c.fill(box(q, c.y, 0, -0.36, 0.155, 0.195), picture)
    c.fill((c.y - GROUND_Y + 0.02).abs() - 0.035, (0.98, 0.95, 0.90))


_LANDMARKS: dict[str, Callable[[Canvas, Color], None]] = {
    "beach": _beach,
    "forest": _forest,
    "snow-field": _snow_field,
    "night-city": _night_city,
    "desert": _desert,
    "room": _room,
}


def draw_place(
    image: Tensor, x: Tensor, y: Tensor, pixel: Tensor, time_s: Tensor, setting: Setting
) -> None:
    """Paint the whole background.

    Args:
        image: ``[3, T, H, W]``, overwritten.
        x: world x ``[T, 1, W]``.
        y: world y ``[T, H, 1]``.
        pixel: world size of a pixel ``[T, 1, 1]``.
        time_s: ``[T, 1, 1]``.
        setting: place and hidden variables.
    """
    place = setting.place
    colors = [tinted(color, setting.tint) for color in _PALETTES[place]]
    sky_top, sky_bottom, far, near_ground, far_ground = colors
    gloom = _GLOOM.get(str(setting.time), WHITE)
    if setting.time in _EVENING_SKIES:
        # Divided by what the whole picture is dimmed with at the end.
        sky_top, sky_bottom = (
            [a / b for a, b in zip(tinted(color, setting.tint), gloom, strict=True)]
            for color in _EVENING_SKIES[setting.time]
        )
    c = Canvas(image=image, x=x, y=y, soft=pixel * 1.2, time_s=time_s, setting=setting)
    height = ((y + 1.1) / 1.5).clamp(0, 1).expand(image.shape[1:])
    for channel in range(3):
        image[channel] = sky_top[channel] + (sky_bottom[channel] - sky_top[channel]) * height
    _draw_light(c, gloom)
    if place in MOVING_PLACES:
        q = c.repeated(1.9, setting.phase_rad * 2 + 0.05 * time_s)
        puffs = [
            ellipse(q, y, *puff)
            for puff in ((-0.18, -0.62, 0.26, 0.10), (0.12, -0.66, 0.24, 0.14),
                         (0.32, -0.61, 0.2, 0.08))
        ]  # fmt: skip
        c.over(coverage(union(*puffs), c.soft * 2) * 0.85, WHITE)
    _LANDMARKS[place](c, far)
    _draw_ground(c, near_ground, far_ground)
    for channel in range(3):
        image[channel] *= gloom[channel]


def _draw_light(c: Canvas, gloom: Color) -> None:
    """Paint the sun, or the moon and the stars."""
    s = c.setting
    if s.time == "at-night":
        bright = [a / b for a, b in zip(_MOON, gloom, strict=True)]
        column, row = torch.floor((c.x + s.phase_rad) / 0.3), torch.floor(c.y / 0.24)
        draw = torch.sin(column * 12.9 + row * 78.2) * 437.5
        draw = draw - torch.floor(draw)
        star_x = torch.remainder(c.x + s.phase_rad, 0.3) - 0.15 - 0.2 * (draw - 0.5)
        star_y = torch.remainder(c.y, 0.24) - 0.12
        star = (star_x.square() + star_y.square()).sqrt() - 0.018
        c.over(coverage(star, c.soft) * (draw < 0.6).float(), bright)
        moon = ellipse(c.x, c.y, s.sun_x, -0.66, 0.15, 0.15)
        c.over(torch.exp(-moon.clamp(min=0) * 6) * 0.25, bright)
        c.fill(moon, bright)
    elif s.time == "at-sunset":
        sun = ellipse(c.x, c.y, s.sun_x, -0.22, 0.26, 0.26)
        c.over(torch.exp(-sun.clamp(min=0) * 3) * 0.5, _LOW_SUN)
        c.fill(sun, (1, 0.80, 0.50))
    elif s.place in _SUNNY:
        sun = ellipse(c.x, c.y, s.sun_x, -0.68, 0.20, 0.20)
        c.over(torch.exp(-sun.clamp(min=0) * 5) * 0.45, (1, 0.97, 0.75))
        c.fill(sun, (1, 0.96, 0.62))


def _draw_ground(c: Canvas, near: Color, far: Color) -> None:
    s = c.setting
    ground = coverage(GROUND_Y - c.y, c.soft)
    c.over(ground, far)
    c.over(ground * ((c.y - GROUND_Y) / 0.45).clamp(0, 1), near)
    if s.place == "night-city":
        c.fill((c.y - GROUND_Y - 0.05).abs() - 0.016, blend(near, WHITE, 0.25))
    elif s.place == "room":
        share = (s.amplitude - 0.6) / 0.8
        rim = blend((0.75, 0.25, 0.30), (0.25, 0.45, 0.65), share)
        rug = blend((0.92, 0.60, 0.50), (0.60, 0.78, 0.86), share)
        c.fill(ellipse(c.x, c.y, s.camera_x, 0.70, 0.95, 0.16), rim)
        c.fill(ellipse(c.x, c.y, s.camera_x, 0.70, 0.82, 0.12), rug)
    else:
        q = torch.remainder(c.x + s.phase_rad * 1.7, 1.3) - 0.65
        patch = coverage(ellipse(q, c.y, 0, 0.60, 0.30, 0.035), 0.03)
        c.over(ground * patch * 0.5, far)
