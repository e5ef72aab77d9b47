"""Pictures of clips: what stands in them, and who gets them."""

from types import SimpleNamespace

import numpy as np
from accelerate import Accelerator
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evagen.data.pictures import LINE, MOST_FRAMES, WIDEST_FRAME, ShownClip, draw_clips, leave_picture
from evagen.data.token_bars import GROUND, TOKENS, bar_height


def noise(frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_bars_of_all_clips_have_one_scale():
    clips = [ShownClip("a", [noise(4, 96, 96)], lengths) for lengths in ([64, 16], [16, 8])]
    picture = np.asarray(draw_clips("heading", clips, highest=64))
    height = bar_height(97)
    of_clip = (len(picture) - LINE) // 2
    for number, clip in enumerate(clips):
        bars = picture[LINE + number * of_clip + LINE + 97 :][:height, : 4 * 97 - 1]
        for block, length in enumerate(clip.lengths):
            column = bars[:, int((block + 0.5) * bars.shape[1] / 2)]
            assert abs((column == TOKENS).all(-1).sum() - length / 64 * (height - 1)) <= 1


def test_long_clips_of_large_frames_stay_within_bounds():
    picture = draw_clips("", [ShownClip("", [noise(100, 100, 300)], [1] * 25)], 1)
    assert picture.width == MOST_FRAMES * (WIDEST_FRAME + 1) - 1
    assert picture.height < LINE * 4 + 50


def test_clips_of_few_frames_leave_their_titles_whole():
    picture = np.asarray(
        draw_clips("A heading that is much wider than the clip", [ShownClip("", [noise(1, 8, 8)], [1])], 1)
    )
    assert picture.shape[1] > 100
    assert (picture[LINE * 2 :, 20:] == GROUND).all()


def test_trackers_that_take_pictures_get_them(tmp_path):
    picture = Image.fromarray(noise(1, 20, 30)[0])
    accelerator = Accelerator(log_with="tensorboard", project_dir=str(tmp_path))
    accelerator.init_trackers("tracker")
    given = {}
    takes = SimpleNamespace(name="wandb", log_images=lambda values, step: given.update(values, step=step))
    accelerator.trackers += [takes, SimpleNamespace(name="numbers only")]
    path = leave_picture(picture, tmp_path, 12, accelerator)
    assert path == tmp_path / "pictures" / "step_00000012.png"
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))
    assert given == {"pictures": [picture], "step": 12}
    accelerator.trackers[0].finish()
    events = EventAccumulator(str(tmp_path / "tracker"))
    events.Reload()
    (logged,) = events.Images("pictures")
    assert (logged.step, logged.width, logged.height) == (12, 30, 20)
