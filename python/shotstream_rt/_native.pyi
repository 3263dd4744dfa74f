"""Types of the native core; the sources are in ``runtime/``.

Slots, positions and lengths are in latent frames; a caller multiplies by tokens per frame.
"""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

class BuildInfo(TypedDict):
    """What was compiled."""

    version: str
    compiler: str
    flags: str

class ContextPlan:
    """Integers of the context pass."""

    @property
    def slots(self) -> list[int]:
        """Arena slot of each context frame."""
    @property
    def positions(self) -> list[int]:
        """Temporal rotary position of each context frame."""
    @property
    def flags(self) -> list[int]:
        """Shot number of each context frame, as given."""
    @property
    def valid_frames(self) -> int:
        """Length of the valid arena prefix."""

class ChunkPlan:
    """Integers of every pass over one chunk."""

    @property
    def shot(self) -> int:
        """Shot number, as given."""
    @property
    def chunk(self) -> int:
        """Chunk number within the shot."""
    @property
    def flag(self) -> int:
        """Shot flag of the chunk's frames, as given."""
    @property
    def first_frame(self) -> int:
        """First latent frame of the chunk within its shot."""
    @property
    def write_slots(self) -> list[int]:
        """Arena slot of each of the chunk's frames."""
    @property
    def valid_frames(self) -> int:
        """Length of the valid arena prefix, this chunk included."""
    @property
    def positions(self) -> list[int]:
        """Temporal rotary position of each of the chunk's frames, as queries."""
    @property
    def key_positions(self) -> list[int]:
        """Temporal rotary position of every valid arena slot."""
    @property
    def slot_frames(self) -> list[int]:
        """Shot frame held by every valid local slot, in slot order."""

class Planner:
    """Turns (shot, chunk) into the integers that every backend executes.

    Args:
        context_frames: read-only slots in front of the arena, 0..512.
        chunk_frames: latent frames made together.
        shot_frames: trained length of a shot, a multiple of ``chunk_frames``.
        sink_frames: first frames of a shot that are never evicted.
        window_frames: capacity of the local cache, sink included; 0 keeps the whole shot.
        rotate_on_read: keys are stored before rotation and numbered anew at every pass.
        number_by_slot: queries are numbered as the keys of their own slots are; needs
            ``rotate_on_read``.

    Raises:
        ConfigError: a value out of range, or a chunk that would overwrite itself.
    """

    def __init__(
        self,
        context_frames: int,
        chunk_frames: int,
        shot_frames: int,
        sink_frames: int = 0,
        window_frames: int = 0,
        rotate_on_read: bool = False,
        number_by_slot: bool = False,
    ) -> None: ...
    @property
    def context_frames(self) -> int:
        """Context slots."""
    @property
    def chunk_frames(self) -> int:
        """Latent frames of a chunk."""
    @property
    def shot_frames(self) -> int:
        """Trained length of a shot."""
    @property
    def sink_frames(self) -> int:
        """Frames never evicted."""
    @property
    def rotate_on_read(self) -> bool:
        """Whether keys are rotated at every pass."""
    @property
    def number_by_slot(self) -> bool:
        """Whether queries are numbered as the keys of their own slots."""
    @property
    def local_frames(self) -> int:
        """Capacity of the local cache, sink included."""
    @property
    def arena_frames(self) -> int:
        """Slots of the whole arena."""
    @property
    def chunks(self) -> int:
        """Chunks of a shot of the trained length."""
    @property
    def longest_shot_chunks(self) -> int | None:
        """Chunks of the longest shot that can be planned; ``None`` where there is no limit.

        Keys rotated as they are written keep their position in the shot, and positions end. Keys
        rotated as they are read are numbered anew in every pass.
        """
    def context(self, flags: list[int]) -> ContextPlan:
        """Plan the context pass.

        Args:
            flags: shot number of each context frame.

        Raises:
            ConfigError: another number of flags than context frames, or a negative one.
        """
    def chunk(self, shot: int, chunk: int, flag: int) -> ChunkPlan:
        """Plan every pass over one chunk.

        Args:
            shot: number in the film.
            chunk: number within the shot; may lie past the trained length.
            flag: shot number of the chunk's frames for the phase.

        Raises:
            ConfigError: a negative argument, or a chunk past the last rotary position (1023).
        """
    def frames(
        self,
        first: int,
        count: int,
        flag: int = 0,
        origin: int = 0,
        own_position: int | None = None,
    ) -> ChunkPlan:
        """Plan every pass over some neighbouring frames; ``chunk`` is one case of it.

        Args:
            first: number of the first frame.
            count: how many; the valid prefix ends with the last of them.
            flag: shot number of the frames, for the phase.
            origin: the frame that the sink begins with.
            own_position: rotary position of the first frame, with ``number_by_slot``; the other
                keys keep theirs. Default: as the slots say.

        Raises:
            ConfigError: a value out of range, or frames that would overwrite each other.
        """

def sample_context(frame_counts: list[int], budget: int) -> list[tuple[int, int]]:
    """Pick the context of the next shot from the decoded frames of the past ones.

    Args:
        frame_counts: decoded frames of each past shot, oldest first.
        budget: frames to pick, 1..512.

    Returns:
        ``(shot, frame in shot)``, oldest first; empty if there is no past shot.

    Raises:
        ConfigError: a shot without frames, or a budget out of range.

    Source: ShotStream reference, dynamic context sampling.
    """

def context_candidates(frame_count: int, budget: int) -> list[int]:
    """Return, sorted, every frame of a shot that ``sample_context`` can pick now or later.

    Raises:
        ConfigError: no frames, or a budget out of range.
    """

def philox_normal(
    out: NDArray[np.float32], seed: int, shot: int, chunk: int, step: int, offset: int = 0
) -> None:
    """Fill ``out`` with the standard normals at (seed; shot, chunk, step), from element ``offset``.

    Args:
        out: float32, C-contiguous, writable, any shape; element order is its memory order.
        seed: 0..2^64-1.
        shot: 0..2^32-1.
        chunk: 0..2^32-1.
        step: 0 for a chunk's first noise, s for the draw in front of denoising step s; 0..65535.
        offset: first element; elements end at 2^50.

    Raises:
        ConfigError: step or offset out of range.
        TypeError: another kind of array, or a negative number.

    Source: Philox4x32-10 (Salmon et al., SC'11), packed as ``shotstream/philox.h`` says.
    Cost: about 4 ns per element on one core; releases the GIL.
    """

def philox_uint32(
    out: NDArray[np.uint32], seed: int, shot: int, chunk: int, step: int, offset: int = 0
) -> None:
    """Fill ``out`` with the raw words behind ``philox_normal``; errors and cost as there.

    Args:
        out: uint32, C-contiguous, writable, any shape; element order is its memory order.
        seed: 0..2^64-1.
        shot: 0..2^32-1.
        chunk: 0..2^32-1.
        step: 0..65535.
        offset: first element; elements end at 2^50.
    """

def rms_norm_bfloat16(x: int, weight: int, eps: float, rows: int, width: int, out: int) -> None:
    """Write ``x / sqrt(mean(x^2) + eps) * weight`` row by row, rounded once.

    Args:
        x: address of ``[rows, width]`` bfloat16 numbers, contiguous.
        weight: address of ``[width]`` of them.
        eps: added to the mean square.
        rows: any number.
        width: a multiple of 16.
        out: address of ``[rows, width]`` of them; may be ``x``.

    Raises:
        ConfigError: another width.

    Source: the reference is ``kernels/reference/qk_norm.py``. Releases the GIL; one thread.
    """

def qkv_append_float32(
    qkv: int,
    weight_q: int,
    weight_k: int,
    table: int,
    queries: int,
    arena_keys: int,
    arena_values: int,
    arena_rows: int,
    row_stride: int,
    head_stride: int,
    slots: list[int],
    frame_tokens: int,
    heads: int,
    head_dim: int,
    eps: float,
    rotate_keys: bool,
) -> None:
    """Normalise and rotate queries; store keys and values.

    Args:
        qkv: address of ``[tokens, 3 * heads * head_dim]`` numbers, contiguous.
        weight_q: address of ``[heads * head_dim]`` factors of the queries' norm.
        weight_k: likewise of the keys'.
        table: address of complex64 ``[tokens, head_dim / 2]``, contiguous.
        queries: address of ``[tokens, heads, head_dim]`` numbers, written.
        arena_keys: address of an arena's keys; those of row r, head h begin
            ``r * row_stride + h * head_stride`` numbers behind it.
        arena_values: likewise of its values.
        arena_rows: rows of the arena.
        row_stride: in numbers.
        head_stride: in numbers.
        slots: arena slot of each latent frame; they make the number of tokens.
        frame_tokens: tokens of a latent frame, and rows of a slot.
        heads: attention heads.
        head_dim: features of a head, a multiple of 16.
        eps: added to the mean square.
        rotate_keys: store keys rotated.

    Raises:
        ConfigError: a slot that the arena does not have, or another head_dim; nothing is written.

    Source: the reference is ``kernels/reference/qkv_append.py``. Releases the GIL; one thread.
    """

def qkv_append_bfloat16(
    qkv: int,
    weight_q: int,
    weight_k: int,
    table: int,
    queries: int,
    arena_keys: int,
    arena_values: int,
    arena_rows: int,
    row_stride: int,
    head_stride: int,
    slots: list[int],
    frame_tokens: int,
    heads: int,
    head_dim: int,
    eps: float,
    rotate_keys: bool,
) -> None:
    """Like ``qkv_append_float32``, in bfloat16 with float32 inside; arguments as there."""

def has_bfloat16_products() -> bool:
    """Tell whether this CPU runs ``attend_bfloat16``: AVX-512 with products of bfloat16."""

def has_fast_bfloat16_products() -> bool:
    """Tell whether those products are twice as fast as float32's; they are on AMD's CPUs."""

def attend_bfloat16(
    q: int,
    k: int,
    v: int,
    bias: int,
    out: int,
    scale: float,
    sizes: tuple[int, int, int, int],
    q_strides: tuple[int, ...],
    k_strides: tuple[int, ...],
    v_strides: tuple[int, ...],
    out_strides: tuple[int, ...],
) -> None:
    """Attend with all heads: ``softmax(scale * q k^T + bias) v``.

    Args:
        q: address of bfloat16 ``[rows, heads, width]``, the features of a head side by side.
        k: likewise ``[keys, heads, width]``.
        v: likewise.
        bias: address of float32 ``[keys]``; 0 for none.
        out: address of bfloat16 like ``q``, written.
        scale: factor on the logits.
        sizes: rows, keys, heads and width; the width a multiple of 32.
        q_strides: numbers from row to row and from head to head.
        k_strides: likewise.
        v_strides: likewise.
        out_strides: likewise.

    Raises:
        ConfigError: another width, or no keys.
        BackendUnavailableError: a CPU without these products.

    Source: the reference is ``kernels/reference/dual_attention.py``. Releases the GIL; one thread.
    """

def has_products() -> bool:
    """Tell whether this CPU runs the products below: AVX2 and FMA."""

def packed_numbers(columns: int, inner: int) -> int:
    """Return the numbers of a packed weight.

    Args:
        columns: outputs of the layer.
        inner: its inputs.
    """

def pack_weight(weight: int, columns: int, inner: int, packed: int) -> None:
    """Pack a weight for ``multiply``.

    Args:
        weight: address of float32 ``[columns, inner]``, contiguous.
        columns: outputs of the layer.
        inner: its inputs.
        packed: address of ``packed_numbers`` float32, written.
    """

def multiply(x: int, packed: int, bias: int, out: int, rows: int, inner: int, columns: int) -> None:
    """Multiply rows by a packed weight and add the bias.

    Args:
        x: address of float32 ``[rows, inner]``, contiguous.
        packed: from ``pack_weight``.
        bias: address of float32 ``[columns]``; 0 for none.
        out: address of float32 ``[rows, columns]``, written.
        rows: how many.
        inner: inputs of the layer.
        columns: its outputs.

    Raises:
        BackendUnavailableError: a CPU without AVX2.

    Source: the bits are those of oneDNN's product on such a CPU. Releases the GIL; one thread.
    """

def multiply_keys(
    x: int,
    arena: int,
    out: int,
    sizes: tuple[int, int, int, int],
    x_strides: tuple[int, ...],
    arena_strides: tuple[int, ...],
    out_strides: tuple[int, ...],
) -> None:
    """Multiply every head's queries by its keys: the logits of attention.

    Args:
        x: address of float32 queries, ``[rows, width]`` for each head.
        arena: address of float32 keys, ``[keys, width]``.
        out: address of float32 logits, ``[rows, keys]``, written.
        sizes: rows, keys, heads and width; the width a multiple of 16.
        x_strides: numbers of ``x`` from row to row and from head to head.
        arena_strides: likewise of ``arena``.
        out_strides: likewise of ``out``.

    Raises:
        BackendUnavailableError: a CPU without AVX2.
        ConfigError: another width.

    Source: as ``multiply``. Releases the GIL; one thread.
    """

def multiply_values(
    x: int,
    arena: int,
    out: int,
    sizes: tuple[int, int, int, int],
    x_strides: tuple[int, ...],
    arena_strides: tuple[int, ...],
    out_strides: tuple[int, ...],
) -> None:
    """Multiply every head's weights by its values; errors and source as of ``multiply_keys``.

    Args:
        x: address of float32 weights, ``[rows, keys]`` for each head.
        arena: address of float32 values, ``[keys, width]``.
        out: address of float32 results, ``[rows, width]``, written.
        sizes: rows, keys, heads and width; the width a multiple of 16.
        x_strides: numbers of ``x`` from row to row and from head to head.
        arena_strides: likewise of ``arena``.
        out_strides: likewise of ``out``.
    """

def pack_kernel(weight: int, outputs: int, inputs: int, packed: int) -> None:
    """Pack a convolution's weight for ``convolve``.

    Args:
        weight: address of float32 ``[outputs, inputs, 3, 3]``, contiguous.
        outputs: channels, a multiple of 16.
        inputs: channels, a multiple of 8.
        packed: address of as many float32, written.

    Raises:
        ConfigError: other numbers of channels.
    """

def convolve(
    x: int,
    packed: int,
    bias: int,
    out: int,
    images: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
) -> None:
    """Convolve images with 3 x 3 pixels, padded by one.

    Args:
        x: address of float32 ``[images, inputs, height, width]``, contiguous.
        packed: from ``pack_kernel``.
        bias: address of float32 ``[outputs]``.
        out: address of float32 ``[images, outputs, height, width]``, written.
        images: how many.
        inputs: channels.
        outputs: channels.
        height: rows of an image.
        width: its columns.

    Raises:
        BackendUnavailableError: a CPU without AVX2.
        ConfigError: other numbers of channels than ``pack_kernel`` takes.

    Source: the bits are those of oneDNN's convolution on such a CPU. Releases the GIL; one thread.
    """

def build_info() -> BuildInfo:
    """Tell what was compiled."""
