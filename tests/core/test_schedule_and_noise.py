"""Schedule tables to the last digit, and the addresses of noise."""

from __future__ import annotations

import pytest
import torch

from shotstream_rt.config import ScheduleConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.plan.noise import PhiloxNoise, RecordedNoise
from shotstream_rt.plan.schedule import Schedule


def test_shipped_steps() -> None:
    schedule = Schedule.from_config(ScheduleConfig())
    assert schedule.timesteps == (1000.0, 957.9287719726562, 888.888916015625, 737.588623046875)
    assert schedule.sigmas == (1.0, 0.9579287767410278, 0.8888888955116272, 0.73758864402771)
    assert float(schedule.sigma_at(torch.tensor(0.0))) == 0.007944390177726746


def test_unwarped_steps_are_taken_as_they_are() -> None:
    schedule = Schedule.from_config(ScheduleConfig(denoising_steps=(900.5, 10), warp=False))
    assert schedule.timesteps == (900.5, 10.0)


def test_loss_weights_average_one_and_vanish_at_the_ends() -> None:
    weights = Schedule.from_config(ScheduleConfig()).loss_weights()
    assert float(weights.mean()) == pytest.approx(1, rel=1e-5)
    assert float(weights.min()) == 0


def test_noise_depends_on_its_address_alone() -> None:
    shape = (1, 2, 4, 3, 5)
    first = PhiloxNoise(7).draw(1, 2, 3, shape)
    assert torch.equal(first, PhiloxNoise(7).draw(1, 2, 3, shape))
    others = [(0, 2, 3), (1, 0, 3), (1, 2, 0)]
    assert not any(torch.equal(first, PhiloxNoise(7).draw(*o, shape)) for o in others)
    assert not torch.equal(first, PhiloxNoise(8).draw(1, 2, 3, shape))


def test_recorded_noise_plays_back_in_order() -> None:
    initial, steps = torch.arange(6.0).view(1, 6, 1, 1, 1), torch.arange(8.0).view(4, 2, 1, 1, 1)
    noise = RecordedNoise([initial], [steps], 3)
    assert torch.equal(noise.draw(0, 1, 0, (1, 2, 1, 1, 1)), initial[:, 2:4])
    assert torch.equal(noise.draw(0, 1, 2, (1, 2, 1, 1, 1)), steps[3][None])
    with pytest.raises(ConfigError, match="shot 1"):
        noise.draw(1, 0, 0, (1, 2, 1, 1, 1))
