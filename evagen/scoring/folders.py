"""What makes two folders of videos unlike before anything is measured."""

from collections.abc import Sequence

from evagen.data.clips import SkippedClip
from evagen.data.frame_counts import count_all_frames
from evagen.data.video_reader import VideoError, decoded_frames
from evagen.eval import Protocol
from evagen.scoring.clips import FileClips
from evagen.scoring.videos import incomplete

LOSSLESS = frozenset(
    {"ffv1", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "rawvideo", "png", "apng", "qtrle", "bmp", "v210", "y4m"}
)
"""FFmpeg's names of codecs that keep every bit. H.264 and VP9 can, too, but hardly ever do."""
LOOKED_AT = 16
"""Files of each folder that are opened to see how they are compressed."""


def differences(sides: Sequence[FileClips], protocol: Protocol) -> list[str]:
    """What makes the two folders unlike before anything is measured."""
    found = []
    looks = [look_at(side) for side in sides]
    lossy = [{codec for codec, *_ in look if codec not in LOSSLESS} for look in looks]
    if bool(lossy[0]) != bool(lossy[1]):
        which, codecs = ("real", lossy[0]) if lossy[0] else ("generated", lossy[1])
        found.append(
            f"the {which} videos are compressed with loss ({', '.join(sorted(codecs))}) and the others are not: the "
            "distance measures that, too. Write samples without loss (.mkv), or score the model with `evagen benchmark`"
        )
    for name, look in zip(("real", "generated"), looks):
        small = min(min(height, width) for _, height, width in look)
        if small < protocol.frames.size:
            found.append(
                f"{name} videos with a short side of {small} pixels are enlarged to {protocol.frames.size}; "
                f"--size {small} compares at that size"
            )
    counts = [sorted({int(c) for c in count_all_frames(list(side.files.values()))}) for side in sides]  # type: ignore[arg-type]
    if counts[0] != counts[1]:
        real, fake = (f"{c[0]} to {c[-1]}" if len(c) > 1 else str(c[0]) for c in counts)
        found.append(
            f"real videos have {real} frames, generated ones {fake}; the first {protocol.num_frames} of each are scored"
        )
    return found


def unequal_counts(sides: Sequence[FileClips]) -> list[str]:
    """A remark where one side has more videos than the other."""
    real, fake = map(len, sides)
    if real == fake:
        return []
    return [f"{real} real and {fake} generated videos: compare the distance only with those of the same two counts"]


def look_at(clips: FileClips) -> list[tuple[str, int, int]]:
    """Codec, height and width of some videos, evenly spread over the folder. Raises UserError for a damaged one."""
    step = max(1, len(clips) // LOOKED_AT)
    looks = []
    for clip in clips.clips[::step]:
        try:
            (height, width), stream = next(decoded_frames(clips.files[clip.path], lambda shown: shown.shape))
        except VideoError as error:
            raise incomplete(
                clips.protocol, [SkippedClip(clip.path, error.reason)], len(clips), "videos", "Replace or remove them"
            ) from error
        looks.append((stream.codec_context.name, height, width))
    return looks
