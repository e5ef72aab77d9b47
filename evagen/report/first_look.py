"""The page that a quickstart begins with: clips of a model in the box, trained before."""

from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from evagen import __version__
from evagen.kernels.files import write_whole
from evagen.report.page import GeneratedClip, by_class, templates

FRAMES_PER_SECOND = 8.0


def write_first_look(path: Path, model: str, clips: Sequence[GeneratedClip], seconds: float, card: str) -> Path:
    """Writes one HTML file that needs no network, and returns its path. seconds: that writing the clips took; card: the
    model's, in Markdown."""
    html = (
        templates()
        .get_template("first_look.html")
        .render(
            model=model,
            generated_by_class=by_class(clips),
            seconds=seconds,
            card=_as_html(card),
            version=__version__,
            frames_per_second=FRAMES_PER_SECOND,
            num_blocks_shown=sorted({len(clip.lengths) for clip in clips}),
            longest_block=max(max(clip.lengths) for clip in clips),
        )
    )
    write_whole(path, html, errors="xmlcharrefreplace")
    return path


def _as_html(card: str) -> str:
    """Markdown as HTML, in which tags stay text, and headings stand below those of the page."""
    parser = MarkdownIt("js-default")  # with tables, without tags
    parsed = parser.parse(card)
    for token in parsed:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + 2, 6)}"
    return parser.renderer.render(parsed, parser.options, {})
