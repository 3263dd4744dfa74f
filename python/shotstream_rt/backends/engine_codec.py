"""Nano's decoder through an engine library, for backends whose folder has its graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BackendUnavailableError
from ..export.manifest import CODEC_FILE, EngineManifest, ExportedPass
from ..inputs import is_file
from ..model.nano.codec import NanoCodec, NanoCodecNet, NanoStreamDecoder
from .engine_gate import LIMITS, codec_distances
from .engine_passes import bind_weights, load_passes
from .registry import ENGINE_LIBRARIES, engine_library

if TYPE_CHECKING:
    from ..model.codec import LatentCodec
    from .engine_passes import PassRun
    from .request import BackendRequest

_log = logging.getLogger("shotstream_rt.backends")

Makers = Mapping[str, Callable[[], "PassRun"]]


def engine_codec(codec: LatentCodec, request: BackendRequest, library: str) -> LatentCodec:
    """Return a codec whose decoders run on an engine library, where the folder has their graphs.

    A codec that computes in another type than float32 stays as it is.

    Args:
        codec: of the model.
        request: of the student's backend.
        library: that backend's name; a codec stays as it is beside any that is no engine library.

    Raises:
        ManifestError: the graphs are not those of this codec, or a file was changed.
        BackendUnavailableError: what they compute differs from torch.
    """
    folder = request.engines_folder()
    if library not in ENGINE_LIBRARIES or folder is None or not isinstance(codec, NanoCodec):
        return codec
    if not is_file(folder / CODEC_FILE):
        return codec
    if next(codec.net.parameters()).dtype != torch.float32:
        # The graphs are float32, which takes longer than torch's bfloat16 where the CPU has it.
        return codec
    manifest = EngineManifest.read(folder, CODEC_FILE)
    manifest.check_fits(request.config, manifest.dtype, folder)
    weights = bind_weights(manifest, codec.net.state_dict(), torch.float32, "codec")
    # One thread: decoding has a thread of its own, beside those that make latents.
    makers = load_passes(manifest, folder, weights, engine_library(library).load, 1)
    found, limit = codec_distances(makers, manifest, codec.net), LIMITS[torch.float32]
    worst = max(found, key=lambda name: found[name])
    if found[worst] > limit:
        raise BackendUnavailableError(
            f"backend {library}: results of {worst} are {found[worst]:.1e} away from the codec's "
            f"in torch, wanted at most {limit:.0e}; export the model again, or use eager"
        )
    _log.info("codec through %s: worst graph %s is %.1e away", library, worst, found[worst])
    return EngineCodec(codec.net, manifest, makers, library)


class EngineCodec(NanoCodec):
    """Nano's codec with decoders on an engine library; all else is torch's.

    Args:
        net: of the codec.
        manifest: of the decoder's graphs.
        makers: what makes a run of each graph.
        library: its name.
    """

    def __init__(
        self, net: NanoCodecNet, manifest: EngineManifest, makers: Makers, library: str
    ) -> None:
        super().__init__(net)
        self.kernel_set, self._manifest, self._makers = library, manifest, makers

    def decoder(self) -> EngineDecoder:
        """Return a new streaming decoder."""
        return EngineDecoder(self.net, self._manifest.passes, self._makers)


class EngineDecoder(NanoStreamDecoder):
    """Decodes one stream; see ``StreamDecoder``.

    Args:
        net: decodes what no graph is for: another number of latent frames than a chunk has. What a
            stream keeps is the same in both.
        graphs: of a stream's first chunk and of the next ones.
        makers: what makes a run of each.
    """

    def __init__(self, net: NanoCodecNet, graphs: tuple[ExportedPass, ...], makers: Makers) -> None:
        super().__init__(net)
        self._graphs = [(graph, makers[graph.name]()) for graph in graphs]

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latents ``[1, F, C, h, w]`` to float32 ``[1, P, 3, H, W]``."""
        latents = latents.float().contiguous()
        graph, run = self._graphs[0 if self._state is None else 1]
        if tuple(latents.shape) != graph.inputs[0].shape:
            return super().decode(latents)
        outputs = {port.name: torch.empty([int(side) for side in port.shape])
                   for port in graph.outputs}  # fmt: skip
        kept = enumerate(self._state or ())
        before = {f"before_{index}": state.contiguous() for index, state in kept}
        run({"latents": latents, **before}, outputs)
        pixels, *after = outputs.values()
        self._state = tuple(after)
        return pixels
