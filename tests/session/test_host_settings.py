"""What a host did to torch before it opened a model does not change the film."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch

from shotstream_rt import Session
from shotstream_rt.device.host_settings import own_torch_settings

from .host_states import default_dtype


def film() -> np.ndarray:
    with Session.open("nano", size="32x48", threads=1, device="cpu") as session:
        session.cut("a red cat on a beach")
        session.cut("a blue robot")  # its context comes from the first shot
        return np.stack([frame.pixels for frame in session.stream()])


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return film()


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(lambda: default_dtype(torch.bfloat16), id="default bfloat16"),
        pytest.param(lambda: default_dtype(torch.float64), id="default float64"),
        pytest.param(lambda: torch.autocast("cpu", dtype=torch.bfloat16), id="autocast"),
        pytest.param(lambda: torch.device("meta"), id="default device"),
        pytest.param(torch.inference_mode, id="inference mode"),
    ],
)
def test_a_setting_of_the_host_does_not_change_the_film(
    setting: type[AbstractContextManager[None]], plain: np.ndarray
) -> None:
    with setting():
        assert np.array_equal(film(), plain)


def test_the_hosts_settings_are_back_afterwards() -> None:
    with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        with own_torch_settings():
            made = torch.ones(2, 2) @ torch.ones(2, 2)
            assert (made.device.type, made.dtype) == ("cpu", torch.float32)
            assert not made.is_inference()
        assert torch.ones(1).device.type == "meta"
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
