from __future__ import annotations

import pytest
import torch

from shotstream_rt import ConfigError, env, nvtx
from shotstream_rt.kernels.reference.frame_pack import frame_pack


def test_packing_truncates_like_the_original() -> None:
    levels = torch.tensor([-2.0, -1.0, -0.9999, 0.0, 0.5, 0.9999, 1.0, 3.0])
    packed = frame_pack(levels.view(1, 1, 1, 8).expand(1, 3, 1, 8))
    assert packed.shape == (1, 1, 8, 3)
    assert packed.dtype == torch.uint8
    assert packed[0, 0, :, 0].tolist() == [0, 0, 0, 127, 191, 254, 255, 255]


def test_packing_keeps_rows_columns_and_channels() -> None:
    frames = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5) / 60 - 1
    packed = frame_pack(frames)
    expected = ((frames / 2 + 0.5) * 255).floor().to(torch.uint8)
    assert torch.equal(packed.permute(0, 3, 1, 2), expected)
    assert packed.is_contiguous()


@pytest.fixture
def fresh_level() -> None:
    nvtx.level.cache_clear()


@pytest.mark.usefixtures("fresh_level")
@pytest.mark.parametrize(("value", "level"), [("0", 0), ("", 0), ("1", 1), ("detail", 2)])
def test_ranges_are_off_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, value: str, level: int
) -> None:
    pytest.importorskip("nvtx", reason="ranges need the nvtx package")
    monkeypatch.setenv("SHOTSTREAM_NVTX", value)
    assert nvtx.level() == level
    with nvtx.annotate("chunk", 3), nvtx.detail("layer", 1):
        pass
    nvtx.level.cache_clear()


def test_unknown_range_level_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOTSTREAM_NVTX", "loud")
    with pytest.raises(ConfigError, match="SHOTSTREAM_NVTX"):
        env.nvtx_level()


def test_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOTSTREAM_CACHE_DIR", "/somewhere")
    assert str(env.cache_dir()) == "/somewhere"
    monkeypatch.delenv("SHOTSTREAM_CACHE_DIR")
    assert env.cache_dir().name == "shotstream_rt"
    for name, read in (("CACHE_DIR", env.cache_dir), ("KERNELS", env.kernel_bundle)):
        monkeypatch.setenv(f"SHOTSTREAM_{name}", "~nobody-of-this-name/x")
        with pytest.raises(ConfigError, match=f"SHOTSTREAM_{name}"):
            read()


@pytest.mark.parametrize("value", ["loud", "5", "notset", "x" * 9000, "\x1b"])
def test_unknown_log_levels_are_config_errors(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SHOTSTREAM_LOG", value)
    with pytest.raises(ConfigError, match="wanted debug, info, warning or error") as caught:
        env.log_level()
    assert len(str(caught.value)) < 250
