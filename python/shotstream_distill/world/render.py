"""Draws the shots of a story: frames and exact class masks.

Called by the latent bank, the detectors' and the codec's training, and the evaluation. A shot is a
pure function of its story; any subset of its frames can be drawn alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .characters import HALF_HEIGHT, Pose, draw_character
from .places import MOVING_PLACES, draw_place
from .shapes import coverage, ellipse, paint
from .story import BOTH, Shot, WorldStory

HEIGHT, WIDTH = 96, 160
SHOT_FRAMES = 81
FRAME_RATE_HZ = 16
_ASPECT = WIDTH / HEIGHT
_FEET_Y = 0.66
_HALF_VIEW = {"wide-shot": 1.02, "medium-shot": 0.76, "close-up": 0.47}
# Where a close-up looks, so that each species' head is in the middle.
_HEAD_Y = {"bunny": -0.15, "bird": 0.04, "cat": -0.07, "robot": -0.07}
_SHADOW = (0.03, 0.02, 0.08)
# Light of the evening: a factor on all colours, characters included.
_LIGHT = {"at-sunset": (1.0, 0.94, 0.88), "at-night": (0.82, 0.85, 0.98)}
# Frames drawn together; eight of them fit a CPU's second-level cache.
_BATCH = 8


class _ShotClock:
    """Camera and motion of a shot as functions of time ``[T, 1, 1]`` in seconds."""

    def __init__(self, story: WorldStory, shot: Shot) -> None:
        self.shot, self.setting, self.story = shot, story.setting, story
        self.close = shot.framing == "close-up"
        self.two = shot.who == BOTH
        wider = 1.12 if self.two and shot.framing == "medium-shot" else 1.0
        self.half_view = _HALF_VIEW[shot.framing] * wider
        direction = {"walks-left": -1, "walks-right": 1}.get(shot.action, 0)
        pace = (0.2 if self.two else 0.34) * shot.speed
        self.velocity = direction * pace * self.half_view
        self.walking = 1.0 if direction else 0.0
        self.jumping = shot.action == "jumps"
        self.dancing = shot.action == "dances"

    @property
    def still_background(self) -> bool:
        """Whether one drawing of the background serves all frames."""
        follows = self.close and (self.walking > 0 or self.jumping)
        return self.shot.push == 0 and not follows and self.setting.place not in MOVING_PLACES

    def zoom(self, t: Tensor) -> Tensor:
        return self.half_view * (1 - self.shot.push * t / 5)

    def walk_x(self, t: Tensor) -> Tensor:
        near = 0.4 if self.close or self.two else 1.0
        return self.shot.start_x * self.half_view * near + self.velocity * (t - 2.5)

    def jump(self, t: Tensor) -> Tensor:
        if not self.jumping:
            return 0 * t
        return torch.sin(t * 4.6 * self.shot.speed + self.shot.phase_rad).abs() * 0.26

    def camera(self, t: Tensor) -> tuple[Tensor, Tensor]:
        x = self.setting.camera_x + 0 * t
        if self.close and self.walking:
            x = x + self.walk_x(t) * 0.6
        if not self.close:
            return x, _FEET_Y - 0.80 * self.half_view + 0.02 + 0 * t
        species = self.story.characters[self.shot.cast[0]].species
        if self.two:
            species = self.story.characters[1].species
        return x, _HEAD_Y[species] - 0.75 * self.jump(t)

    def stretch(self, t: Tensor) -> Tensor:
        speed, phase = self.shot.speed, self.shot.phase_rad
        if self.jumping:
            landing = (self.jump(t) < 0.12).float()
            return 1 + 0.05 * torch.sin(t * 9.2 * speed + 2 * phase + 1.6) * landing
        if self.dancing:
            return 1 + 0.05 * torch.sin(t * 10 * speed + phase)
        step = t * 8 * speed + phase
        breath = 0.012 * torch.sin(t * 3 + phase)
        return 1 + 0.02 * torch.sin(step * 2) * self.walking + breath

    def face(self, t: Tensor, order: int) -> Tensor:
        if self.walking:
            side = -1.0 if self.velocity < 0 else 1.0
        else:
            side = (1.0, -1.0)[order] if self.two else float(self.shot.face)
        face = torch.full_like(t, side)
        if self.dancing:
            turned = torch.sin(t * 2.5 * self.shot.speed + self.shot.phase_rad) < 0
            face = torch.where(turned, -face, face)
        return face

    def pose(self, t: Tensor, order: int, size: float) -> Pose:
        shot = self.shot
        offset = (-0.60, 0.60)[order] if self.two else 0.0
        sway = 0.11 * torch.sin(t * 5 * shot.speed + shot.phase_rad) if self.dancing else 0 * t
        busy = self.walking > 0 or self.jumping or self.dancing
        flap = torch.sin(t * (9 if busy else 2) + shot.phase_rad) * (0.8 if busy else 0.15)
        return Pose(
            center_x=self.walk_x(t) + offset + sway * (1 if order == 0 else -1),
            center_y=_FEET_Y - HALF_HEIGHT * size - self.jump(t),
            leg_swing=torch.sin(t * 8 * shot.speed + shot.phase_rad) * self.walking,
            wing_flap=flap,
            tail_sway=torch.sin(t * 3 + shot.phase_rad),
            face=self.face(t, order),
            stretch=self.stretch(t),
        )


def render_shot(
    story: WorldStory, shot_index: int, frames: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Draw frames of a shot.

    Args:
        story: the story.
        shot_index: which shot, 0-based.
        frames: frame numbers in [0, 81), 16 per second; default: all 81.

    Returns:
        float32 ``[T, 3, 96, 160]`` in [0, 1], and uint8 masks ``[T, 96, 160]``: the low four bits
        are 0 for background, else 1 + 2 * species + character; bits 16, 32 and 64 mark hat, scarf
        and the coat pixels that show the named colour.

    Cost:
        About 1 ms a frame on one CPU core.
    """
    times = torch.tensor(range(SHOT_FRAMES) if frames is None else list(frames)) / FRAME_RATE_HZ
    count = len(times)
    image = torch.empty(3, count, HEIGHT, WIDTH)
    mask = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.uint8)
    shot, setting = story.shots[shot_index], story.setting
    clock = _ShotClock(story, shot)
    v = torch.linspace(-1, 1, HEIGHT).view(1, HEIGHT, 1)
    u = torch.linspace(-_ASPECT, _ASPECT, WIDTH).view(1, 1, WIDTH)
    still: Tensor | None = None
    for first in range(0, count, _BATCH):
        t = times[first : first + _BATCH].view(-1, 1, 1)
        zoom = clock.zoom(t)
        pixel = 2 * zoom / HEIGHT
        camera_x, camera_y = clock.camera(t)
        x, y = camera_x + u * zoom, camera_y + v * zoom
        part = image[:, first : first + len(t)]
        if clock.still_background:
            if still is None:
                still = torch.empty(3, 1, HEIGHT, WIDTH)
                draw_place(still, x[:1], y[:1], pixel[:1], t[:1], setting)
            part.copy_(still.expand_as(part))
        else:
            draw_place(part, x, y, pixel, t, setting)
        x = x - setting.camera_x
        for order, who in enumerate(shot.cast):
            character = story.characters[who]
            pose = clock.pose(t, order, character.size)
            shadow = ellipse(x - pose.center_x, y, 0.0, _FEET_Y, 0.34 * character.size, 0.055)
            paint(part, coverage(shadow, pixel * 2) * (0.34 - 0.6 * clock.jump(t)), _SHADOW)
            part_mask = mask[first : first + len(t)]
            draw_character(part, part_mask, (x, y, pixel), who, character, pose)
        for channel, light in enumerate(_LIGHT.get(str(setting.time), ())):
            part[channel] *= light
    return image.clamp_(0, 1).transpose(0, 1), mask
