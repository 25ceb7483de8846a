"""Reading a clip: frames on an even time grid and 16 kHz mono sound, with facts about the file and clear errors.

Goes in: a ``Clip`` (file, start, end), the ``MediaSettings`` that travel with the checkpoint, and ``Limits``. Comes
out: ``Decoded``, or a ``MediaError`` whose reason is a key of ``REASONS``. ``decode`` and ``probe`` work in a child
process that is killed when its time is up, so a hostile file can neither hang nor crash the caller; ``decode_here``
and ``probe_here`` do the same work in this process, for data loader workers. Imports PyAV and NumPy, never torch.
Read in this order: ``records``, ``survey`` (first pass), ``decoding`` (second pass), ``worker`` (isolation). To add a
container: nothing, whatever FFmpeg reads is read.
"""

from saber.media.decoding import decode_here, fit_pixels, sampling_times_s
from saber.media.records import NOTES, REASONS, Decoded, Facts, Limits, MediaError, MediaSettings
from saber.media.survey import probe_here
from saber.media.worker import decode, probe

__all__ = [
    "NOTES",
    "REASONS",
    "Decoded",
    "Facts",
    "Limits",
    "MediaError",
    "MediaSettings",
    "decode",
    "decode_here",
    "fit_pixels",
    "probe",
    "probe_here",
    "sampling_times_s",
]
