"""The page that a quickstart begins with: clips of a model in the box, trained before."""

from collections.abc import Sequence
from pathlib import Path

from evagen import __version__
from evagen.kernels.files import write_whole
from evagen.report.page import GeneratedClip, by_class, templates

FRAMES_PER_SECOND = 8.0


def write_first_look(path: Path, model: str, clips: Sequence[GeneratedClip], seconds: float, card: str) -> Path:
    """Writes one HTML file that needs no network, and returns its path. seconds: that writing the clips took; card: the
    model's."""
    html = (
        templates()
        .get_template("first_look.html")
        .render(
            model=model,
            generated_by_class=by_class(clips),
            seconds=seconds,
            card=card,
            version=__version__,
            num_frames=len(clips[0].frames),
            frames_per_second=FRAMES_PER_SECOND,
            num_blocks_shown=sorted({len(clip.lengths) for clip in clips}),
            longest_block=max(max(clip.lengths) for clip in clips),
        )
    )
    write_whole(path, html, errors="xmlcharrefreplace")
    return path
