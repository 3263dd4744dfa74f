"""Typed errors of the runtime.

Every message says what happened, what was got, what was wanted and what to do. The native core's
status codes map onto these classes one to one (``runtime/include/shotstream/status.h``).
"""


class ShotStreamError(Exception):
    """Base class of every error this package raises on purpose."""


class ConfigError(ShotStreamError, ValueError):
    """A setting, prompt, story or argument is not usable; the message names the field."""


class WeightsError(ShotStreamError):
    """A checkpoint file is missing, truncated, mis-shaped or unsafe; names the file and tensor."""


class ManifestError(ShotStreamError):
    """A manifest's version or fingerprint does not match what it describes."""


class BackendUnavailableError(ShotStreamError):
    """A backend was asked for by name and cannot run here; lists the ones that can."""


class ExportError(ShotStreamError):
    """A graph cannot be exported, or is not what it was meant to be; says what is wrong with it."""


class KernelUnavailableError(ShotStreamError):
    """An opened bundle has no machine code for a launch; names the kernel and what there is."""


class ModelClosedError(ShotStreamError):
    """A closed model was asked for a session, or a freed one was used."""


class SessionClosedError(ShotStreamError):
    """A closed session was used."""


class FrameTimeoutError(ShotStreamError, TimeoutError):
    """No frame arrived within the caller's time limit."""


class OutputError(ShotStreamError, OSError):
    """An output file could not be written; nothing half-written is left behind."""


class FetchError(ShotStreamError):
    """Files could not be fetched; what is whole is kept, and the next fetch goes on from there."""


class DeviceError(ShotStreamError):
    """A device library failed; carries its own text and code."""
