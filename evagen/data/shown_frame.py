"""A decoded frame as a player shows it: upright, whole, with square pixels, in the colours of a usual screen.

A file says how its frames are to be shown: turned or mirrored (a camera held sideways, a front camera), with pixels
that are not square (DVD, DV), in two fields that were taken one after the other (old television), in HDR. All of it is
done here, once, for every way of reading:

- frames marked as interlaced keep one field, and the lines between are filled in from it (FFmpeg's `estdif`), so
  frames stay independent of one another;
- HDR (PQ, HLG) and BT.2020 colours become BT.709, by FFmpeg's own perceptual tone mapping: white on paper at 203 nits
  becomes a level of about 155 for PQ, and what is brighter is pressed together above it;
- colours are by the matrix and the range that the file names; where it names none, by BT.601 in the small range;
- pixels are made square by enlarging one side, as the frame is converted or resized anyway;
- the display matrix is rounded to quarter turns and mirrors, and done to the planes.
"""

import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorPrimaries, ColorTrc

_HDR = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
_BT2020, _UNSPECIFIED = 9, 2  # FFmpeg's numbers of matrices from YUV to RGB

_TO_SDR = "scale=out_transfer=bt709:out_primaries=bt709:intent=perceptual:flags=bicubic+accurate_rnd+full_chroma_int"
_TONE_MAPPERS_KEPT = 8
"""Of a thread, for as many kinds and sizes of frames: making one takes some seconds of a processor."""


@dataclass(frozen=True)
class ShownFrame:
    """frame: as decoded; pixel_aspect: width over height of its pixels."""

    frame: av.VideoFrame
    pixel_aspect: Fraction = Fraction(1)

    @cached_property
    def plain(self) -> av.VideoFrame:
        """The frame as stored, neither interlaced nor in HDR. Raises what FFmpeg raises."""
        frame = _deinterlaced(self.frame) if self.frame.interlaced_frame else self.frame
        wide = frame.color_trc in _HDR or frame.color_primaries == ColorPrimaries.BT2020
        return _MAPPERS.to_sdr(frame) if wide else frame

    @property
    def square_shape(self) -> tuple[int, int]:
        """Height and width with square pixels, before the display matrix."""
        return square_shape(self.frame.height, self.frame.width, self.pixel_aspect)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width as shown."""
        height, width = self.square_shape
        return (width, height) if self._turns[0] else (height, width)

    def upright(self, plane: np.ndarray) -> np.ndarray:
        """A plane `H W ...` as stored → as shown; a view of it."""
        transposed, down, across = self._turns
        plane = plane.swapaxes(0, 1) if transposed else plane
        return plane[:: -1 if down else 1, :: -1 if across else 1]

    @cached_property
    def _turns(self) -> tuple[bool, bool, bool]:
        """Whether rows become columns, then whether it is mirrored up and down, and left and right."""
        found: Any = self.frame.side_data  # whose types PyAV's stubs do not know
        if SideDataType.DISPLAYMATRIX not in [data.type for data in found]:
            return False, False, False
        stored = bytes(found[SideDataType.DISPLAYMATRIX])
        a, b, _, c, d = struct.unpack("=5i", stored[:20])  # shown x = a x + c y, shown y = b x + d y
        if abs(b) + abs(c) > abs(a) + abs(d):
            return True, b < 0, c < 0
        return False, d < 0, a < 0


def square_shape(height: int, width: int, pixel_aspect: Fraction) -> tuple[int, int]:
    """Height and width of a frame whose pixels, `pixel_aspect` times as wide as high, are made square: the side that
    is too short grows."""
    if pixel_aspect < 1:
        return round(height / pixel_aspect), width
    return height, round(width * pixel_aspect)


def _deinterlaced(frame: av.VideoFrame) -> av.VideoFrame:
    graph = _graph(frame, "estdif=mode=frame", None)
    graph.push(frame)
    graph.push(None)
    return cast(av.VideoFrame, graph.pull())


class _ToneMappers(threading.local):
    """Each thread's, by the kind of frames that they are for."""

    def __init__(self) -> None:
        self.graphs: OrderedDict[tuple, Graph] = OrderedDict()

    def to_sdr(self, frame: av.VideoFrame) -> av.VideoFrame:
        """RGB in the colours of BT.709, of the same size."""
        if frame.colorspace == _UNSPECIFIED:
            frame.colorspace = _BT2020
        kind = (*_kind(frame), frame.color_trc, frame.color_primaries)
        if kind not in self.graphs:
            self.graphs[kind] = _graph(frame, _TO_SDR, "gbrp")
            if len(self.graphs) > _TONE_MAPPERS_KEPT:
                self.graphs.popitem(last=False)
        self.graphs.move_to_end(kind)
        self.graphs[kind].push(frame)
        return cast(av.VideoFrame, self.graphs[kind].pull())


_MAPPERS = _ToneMappers()


def _kind(frame: av.VideoFrame) -> tuple[int, int, str, int, int]:
    """What a filter is made for."""
    return frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range)


def _graph(frame: av.VideoFrame, filters: str, pixels: str | None) -> Graph:
    """A filter for frames like this one, which gives frames of a pixel format, or of its own."""
    width, height, pixel_format, matrix, levels = _kind(frame)
    graph = Graph()
    graph.threads = 1
    source = f"video_size={width}x{height}:pix_fmt={pixel_format}:time_base=1/1000:colorspace={matrix}:range={levels}"
    name, _, options = filters.partition("=")
    nodes = [graph.add("buffer", source), graph.add(name, options)]
    if pixels is not None:
        nodes.append(graph.add("format", f"pix_fmts={pixels}"))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph
