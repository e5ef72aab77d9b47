"""A camera that moves over pictures: pan, zoom, turn, tilt, a shaking hand, and light that changes.

Legend: F frames, S side of the square that is seen, in pixels. A camera's own unit is half a side of what it sees at
the start; pictures are PIL images of any size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SMALLEST_VIEW = 96
"""Source pixels that a view is wide, at least, where the picture has as many: fewer show no detail."""
_CORNERS = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], float).T  # 3 4


@dataclass(frozen=True)
class Camera:
    """homographies: float (F, 3, 3), from the square [-1, 1]² that is seen to pixels of the picture, in homogeneous
    coordinates; `scale`: pixels of the picture for half a side; centre: (x, y) in the picture, of all that is seen."""

    homographies: np.ndarray
    scale: float
    centre: tuple[float, float]

    def film(self, pictures: Sequence[Image.Image], size: int) -> np.ndarray:
        """What is seen of F pictures, uint8 `F S S C`. Twice as fine as needed, then averaged, against aliasing."""
        fine = 2 * size
        to_square = np.array([[2 / fine, 0, -1], [0, 2 / fine, -1], [0, 0, 1]])
        shrink = max(1, int(2 * self.scale / size))
        to_shrunk = np.diag([1 / shrink, 1 / shrink, 1])
        seen, last, shrunk = [], None, None
        for picture, homography in zip(pictures, self.homographies):
            if picture is not last or shrunk is None:  # a photograph is the same picture F times
                last, shrunk = picture, picture.reduce(shrink)
            matrix = to_shrunk @ homography @ to_square
            numbers = (matrix / matrix[2, 2]).ravel()[:8]
            view = shrunk.transform(
                (fine, fine), Image.Transform.PERSPECTIVE, tuple(numbers), Image.Resampling.BILINEAR
            )
            seen.append(np.asarray(view.reduce(2)))
        return np.stack(seen)


def speed_curve(random: np.random.Generator, num_frames: int) -> np.ndarray:
    """(F,) from 0 at the first frame to about 1 at the last: even, slower or faster at the ends, or there and back."""
    time = np.linspace(0, 1, num_frames)
    if random.random() < 0.15:
        return np.sin(math.pi * time) ** 2
    return time ** random.uniform(0.6, 1.8) + random.uniform(-0.12, 0.12) * np.sin(2 * math.pi * time)


def draw_camera(random: np.random.Generator, num_frames: int, width: int, height: int, calmness: float = 1.0) -> Camera:
    """A camera whose views lie in a picture of `width` × `height` pixels. `calmness` divides every motion; infinite is
    a camera that stands still, upright."""
    calm = 1 / calmness
    length = num_frames / 16 * calm
    curve = speed_curve(random, num_frames)
    direction = random.uniform(0, 2 * math.pi)
    way = random.exponential(0.35) * length
    noise = random.normal(size=(2, num_frames)) * random.exponential(0.012) * calm * (random.random() < 0.6)
    shake = np.cumsum(noise, axis=1) * 0.7 + noise
    x = math.cos(direction) * way * curve + shake[0]
    y = math.sin(direction) * way * curve + shake[1]
    zoom = np.exp(random.normal(0, 0.12) * length * curve)
    angle = random.normal(0, 0.1) * calm + random.normal(0, 0.1) * length * speed_curve(random, num_frames)
    tilt = random.normal(0, 0.08, size=(2, 1)) * calm + random.normal(0, 0.05, size=(2, 1)) * length * curve
    unplaced = np.zeros((num_frames, 3, 3))
    unplaced[:, 0] = np.stack([zoom * np.cos(angle), -zoom * np.sin(angle), x], 1)
    unplaced[:, 1] = np.stack([zoom * np.sin(angle), zoom * np.cos(angle), y], 1)
    unplaced[:, 2, 2] = 1
    perspective = np.tile(np.eye(3), (num_frames, 1, 1))
    perspective[:, 2, :2] = tilt.T.clip(-0.3, 0.3)
    return _place(random, unplaced @ perspective, width, height)


def _place(random: np.random.Generator, unplaced: np.ndarray, width: int, height: int) -> Camera:
    """The same motion, as large as drawn and where drawn, with every view inside the picture."""
    corners = unplaced @ _CORNERS  # F 3 4
    corners = corners[:, :2] / corners[:, 2:]
    low, high = corners.min((0, 2)), corners.max((0, 2))
    largest = min((width - 2) / (high[0] - low[0]), (height - 2) / (high[1] - low[1]))
    smallest = min(largest, max(_SMALLEST_VIEW / 2, 0.5 * largest))
    scale = random.uniform(smallest, largest)
    room = np.array([width, height]) - 2 - scale * (high - low)
    corner = 1 + random.uniform(0, 1, size=2) * room.clip(min=0)
    shift = corner - scale * low
    to_picture = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])
    centre = shift + scale * (low + high) / 2
    return Camera(to_picture @ unplaced, scale, (float(centre[0]), float(centre[1])))


def cut_out(random: np.random.Generator, picture: Image.Image, camera: Camera) -> Image.Image:
    """The picture as RGBA, opaque within one round or ragged outline near the middle of what the camera sees."""
    angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    radius = np.ones(72)
    for wave in range(1, 6):
        radius += random.normal(0, 0.22 / wave) * np.cos(wave * angles + random.uniform(0, 2 * math.pi))
    radius *= camera.scale * random.uniform(0.3, 0.7)
    x = camera.centre[0] + random.normal(0, 0.3) * camera.scale + radius * np.cos(angles) * random.uniform(0.7, 1.3)
    y = camera.centre[1] + random.normal(0, 0.3) * camera.scale + radius * np.sin(angles)
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).polygon(list(zip(x.tolist(), y.tolist())), fill=255)
    soft = random.uniform(0.3, 2.0) * camera.scale / 64
    cut = picture.convert("RGB")
    cut.putalpha(mask.filter(ImageFilter.GaussianBlur(soft)))
    return cut


def lay_over(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """uint8 `F S S 3` and `F S S 4` to `F S S 3`."""
    opacity = above[..., 3:].astype(np.float32) / 255
    mixed = below * (1 - opacity) + above[..., :3] * opacity
    return (mixed + 0.5).astype(np.uint8)


def change_light(random: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """uint8 `F S S 3`: another exposure, contrast and colour of light, the first and the last changing a little."""
    num_frames = len(frames)
    curve = speed_curve(random, num_frames)
    exposure = np.exp(random.normal(0, 0.15) + random.normal(0, 0.08) * curve)  # F
    colour = np.exp(random.normal(0, 0.07, size=3) + random.normal(0, 0.03, size=3) * curve[:, None])  # F 3
    pixels = frames.astype(np.float32) / 255
    grey = pixels.mean(-1, keepdims=True)
    pixels = grey + (pixels - grey) * random.uniform(0.6, 1.3)
    pixels = pixels.clip(0, 1) ** np.exp(random.normal(0, 0.2))
    pixels *= (exposure[:, None] * colour)[:, None, None]
    return (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)
