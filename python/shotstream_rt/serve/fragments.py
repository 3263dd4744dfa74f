"""H.264 in fragmented MP4, one fragment per frame, made at once.

``FragmentEncoder`` turns pictures into samples, ``Head`` has the beginning of the file and
``fragment`` wraps one sample. A sample is kept without its wrapping, so that the live stream and a
recording write it with times of their own. libav's own fragmenter holds every frame back until the
next one comes, a frame's time of latency; so the two small boxes before a sample are written here,
as ISO/IEC 14496-12 describes them, and the head comes from libav.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ..errors import ConfigError
from ..media.video import mark_bt709, picture_bt709

KEY_FRAME_S = 3
"""Seconds after which there is a key frame again: who joins waits for none and decodes so much."""

_START_CODE = re.compile(rb"\x00*\x00\x00\x01")
_LEFT_OUT = {6, 7, 8, 9}
"""Kinds of NAL units that a sample does not need: remarks, parameter sets (in the head), marks."""
_KEY, _DELTA = 0x02000000, 0x01010000
"""``sample_flags``: depends on no other sample; depends on others and is no sync sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One coded frame.

    Attributes:
        data: NAL units, each with its length in four bytes before it.
        key: it can be decoded without the frames before it.
    """

    data: bytes
    key: bool


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a fragmented MP4 file, and what its readers need to know.

    Attributes:
        data: the boxes ``ftyp`` and ``moov``.
        codec: RFC 6381 name, such as ``avc1.42C01E``.
        timescale: ticks per second.
        ticks: ticks per frame.
    """

    data: bytes
    codec: str
    timescale: int
    ticks: int


class FragmentEncoder:
    """Encodes one stream of pictures: H.264 without delay, BT.709, baseline unless lossless.

    Args:
        height: of every picture, even.
        width: of every picture, even.
        frame_rate_hz: frames per second.
        crf: quality, 0 (lossless) to 51 (worst).

    Raises:
        ConfigError: an odd height or width, which the format does not have.
    """

    def __init__(self, *, height: int, width: int, frame_rate_hz: int, crf: int = 17) -> None:
        if height % 2 or width % 2:
            raise ConfigError(f"live: got pictures of {height}x{width}, wanted even numbers")
        self._file = io.BytesIO()
        self._container = av.open(
            self._file, "w", format="mp4", options={"movflags": "empty_moov+default_base_moof"}
        )
        stream: Any = self._container.add_stream("libx264", rate=frame_rate_hz)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {
            "preset": "veryfast" if height * width <= 200_000 else "ultrafast",
            "tune": "zerolatency",
            **({"profile": "baseline"} if crf else {}),  # which has no lossless coding
            "crf": str(crf),
            "g": str(KEY_FRAME_S * frame_rate_hz),
            "sc_threshold": "0",
            "threads": "1",
        }
        mark_bt709(stream.codec_context)
        self._container.start_encoding()
        self._stream, self._convert = stream, VideoReformatter()
        self._count = 0
        timescale = stream.time_base.denominator
        data = self._file.getvalue()
        self.head = Head(data, codec_name(data), timescale, timescale // frame_rate_hz)

    def encode(self, pixels: NDArray[np.uint8], *, key: bool) -> Sample:
        """Encode the next picture.

        Args:
            pixels: uint8 ``[H, W, 3]`` RGB.
            key: make it a key frame, because the picture before it is another one's.
        """
        frame = picture_bt709(self._convert, pixels)
        frame.pts = self._count
        self._count += 1
        if key:
            frame.pict_type = av.video.frame.PictureType.I
        packets = self._stream.encode(frame)
        assert len(packets) == 1, "an encoder without delay gives a packet for every frame"
        units = [unit for unit in _START_CODE.split(bytes(packets[0])) if unit]
        data = b"".join(
            struct.pack(">I", len(unit)) + unit for unit in units if unit[0] & 31 not in _LEFT_OUT
        )
        return Sample(data, bool(packets[0].is_keyframe))

    def close(self) -> None:
        """Free the encoder."""
        self._container.close()


def codec_name(head: bytes) -> str:
    """Return the RFC 6381 name of the codec that a file's head declares."""
    at = head.index(b"avcC") + 5  # behind the name and a version
    return f"avc1.{head[at : at + 3].hex().upper()}"


def timescale_of(head: bytes) -> int:
    """Return the ticks per second that a file's head declares."""
    at = head.index(b"mdhd") + 16  # behind name, version and two dates
    (timescale,) = struct.unpack_from(">I", head, at)
    return int(timescale)


FRAGMENT_HEAD_BYTES = 108
"""Bytes of a fragment before its sample."""


def fragment_head(head: Head, number: int, time: int, size: int, *, key: bool) -> bytes:
    """Return what stands before a sample: the box ``moof`` and the beginning of ``mdat``.

    Args:
        head: of the file.
        number: of the fragment in the file, from 0.
        time: number of the frame on the file's clock, from 0.
        size: bytes of the sample.
        key: the sample is a key frame.
    """
    mfhd = _box(b"mfhd", struct.pack(">II", 0, number + 1))
    tfhd = _box(b"tfhd", struct.pack(">II", 0x020000, 1))  # offsets count from this moof
    tfdt = _box(b"tfdt", struct.pack(">IQ", 0x01000000, time * head.ticks))
    # One sample with an offset, a duration, a size and flags of its own.
    trun = struct.pack(">IIiIII", 0x000701, 1, FRAGMENT_HEAD_BYTES, head.ticks, size,
                       _KEY if key else _DELTA)  # fmt: skip
    traf = _box(b"traf", tfhd + tfdt + _box(b"trun", trun))
    moof = _box(b"moof", mfhd + traf)
    return moof + struct.pack(">I", size + 8) + b"mdat"


def fragment(head: Head, number: int, time: int, sample: Sample) -> bytes:
    """Return a whole fragment: the box ``moof``, and ``mdat`` with the sample.

    Args:
        head: of the file.
        number: of the fragment in the file, from 0.
        time: number of the frame on the file's clock, from 0.
        sample: the encoded frame, and whether it is a key frame.
    """
    return fragment_head(head, number, time, len(sample.data), key=sample.key) + sample.data


def read_fragment(data: bytes) -> tuple[int, Sample]:
    """Return time in ticks and sample of a fragment that ``fragment`` made.

    Raises:
        ConfigError: it is not one.
    """
    at, flags = data.find(b"tfdt", 0, FRAGMENT_HEAD_BYTES), FRAGMENT_HEAD_BYTES - 12
    if at < 0 or data[FRAGMENT_HEAD_BYTES - 4 : FRAGMENT_HEAD_BYTES] != b"mdat":
        raise ConfigError("fragment: got other bytes, wanted one frame in a moof and an mdat box")
    (time,) = struct.unpack_from(">Q", data, at + 8)
    key = struct.unpack_from(">I", data, flags)[0] == _KEY
    return int(time), Sample(data[FRAGMENT_HEAD_BYTES:], key)


class FragmentDecoder:
    """Turns fragments back into pictures.

    Args:
        head: the beginning of the file.
        frame_rate_hz: frames per second.
    """

    def __init__(self, head: bytes, frame_rate_hz: int) -> None:
        at = head.index(b"avcC")
        (size,) = struct.unpack_from(">I", head, at - 4)
        self._decoder: Any = av.CodecContext.create("h264", "r")
        self._decoder.extradata = head[at + 4 : at - 4 + size]
        self._decoder.thread_count = 1
        self._decoder.flags |= 0x80000  # AV_CODEC_FLAG_LOW_DELAY: a frame out for every frame in
        self._ticks = timescale_of(head) // frame_rate_hz

    def decode(self, data: bytes) -> list[tuple[int, NDArray[np.uint8]]]:
        """Return the pictures that a fragment completes, each with its number on the file's clock.

        Args:
            data: one fragment.

        Returns:
            Number and uint8 ``[H, W, 3]`` RGB each.
        """
        time, sample = read_fragment(data)
        packet = av.Packet(sample.data)
        packet.pts = packet.dts = time // self._ticks
        return [
            (frame.pts, frame.to_ndarray(format="rgb24")) for frame in self._decoder.decode(packet)
        ]


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + name + content
