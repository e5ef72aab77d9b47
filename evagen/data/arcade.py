"""Arcade: Atari 2600 games as a labelled set of real rendered video, in the UCF-101 folder layout.

    build_arcade("data/arcade", games=8, clips_per_game=200)

A class is a game, a group (`gXX`) is one play-through with a seed of its own, a clip (`cYY`) is a piece
of it. The train and test lists split by group, as UCF-101's do, so that the clips of one play-through
never stand on both sides. The games and their emulator come with the `ale-py` package.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from evagen.data.labelled_set import check_manifest, random_of, record_all, write_lists
from evagen.data.video_writer import write_video
from evagen.errors import UserError

FRAMES_PER_SECOND = 60
"""Of the console."""

PREFERRED_GAMES = (
    *("boxing", "freeway", "fishing_derby", "seaquest", "enduro", "frostbite", "skiing", "tennis"),
    *("ms_pacman", "space_invaders", "frogger", "kung_fu_master", "asteroids", "pooyan", "chopper_command"),
    *("crazy_climber", "journey_escape", "time_pilot", "name_this_game", "private_eye", "zaxxon"),
    *("galaxian", "up_n_down", "lost_luggage", "darkchambers", "hero", "carnival", "battle_zone"),
    *("wizard_of_wor", "kaboom", "alien", "ice_hockey"),
)
"""Chosen by looking at contact sheets: each looks unlike the ones before it (layout, palette, camera) and
has motion that can be followed through 16 frames of random play. `games=N` takes the first N of these,
then the others in alphabetic order."""

HARDLY_MOVING_GAMES = frozenset(
    {"basic_math", "blackjack", "casino", "flag_capture", "human_cannonball", "othello"}
    | {"tic_tac_toe_3d", "video_checkers", "video_chess"}
)
"""Board, card and quiz games: under random play at most a thousandth of the pixels changes from one frame
to the next (tic-tac-toe: nothing does while it thinks, with a black screen)."""

_MAX_CLIPS_PER_GROUP = 8
_MIN_GROUPS = 8
_WARM_UP_STEPS = (120, 480)  # console frames before the first clip: past the start screen, not always as far
_STEPS_BETWEEN_CLIPS = (15, 75)
_STEPS_HOLDING_AN_ACTION = (4, 20)
_FRAMES_TRIED_PER_CLIP = 320  # so a clip of 16 frames has 20 attempts, and a minute has one


@dataclass(frozen=True)
class ArcadeSummary:
    """What `build_arcade` made: counts are clips, `left_out` gives the reason for each game left out."""

    out: Path
    class_names: list[str]
    train_clips: int
    test_clips: int
    written: int
    kept: int
    left_out: dict[str, str]


def build_arcade(
    out: str | Path,
    games: int | Sequence[str] = 8,
    clips_per_game: int = 200,
    frames: int = 16,
    size: int | None = None,
    seed: int = 0,
    test_fraction: float = 0.25,
    frame_skip: int = 4,
    workers: int | None = None,
) -> ArcadeSummary:
    """Plays games at random, records clips of them, and writes the UCF-101 layout into `out`.

    `games`: how many (see PREFERRED_GAMES) or which. `size`: short side of the video in pixels, `None` for
    the console's own (160 wide, 210 to 250 high). `frame_skip`: console frames for each frame of video,
    which is therefore shown at 60 / frame_skip frames a second. `test_fraction`: share of the play-throughs
    in the test list. `workers`: processes, `None` for one on each core.

    A file depends on (seed, game, group, clip, frames, size, frame_skip) only. Calling it again continues
    an unfinished build and keeps finished files. Raises UserError without ale-py, for an unknown game, for
    arguments out of range, and when `out` was made with other arguments or holds something else."""
    emulator = _import_emulator()
    if clips_per_game < 1 or frames < 1 or frame_skip < 1 or not 0 <= test_fraction < 1:
        raise UserError(
            f"clips_per_game={clips_per_game}, frames={frames}, frame_skip={frame_skip}, "
            f"test_fraction={test_fraction}: the first three should be at least 1, the last from 0 to below 1"
        )
    if size is not None and size < 16:
        raise UserError(f"size={size}: the short side of the video should have at least 16 pixels")
    out = Path(out)
    chosen, left_out = _choose_games(games, emulator)
    groups = _group_sizes(clips_per_game)
    made_with = {
        "games": chosen, "clips_per_game": clips_per_game, "frames": frames, "size": size, "seed": seed,
        "test_fraction": test_fraction, "frame_skip": frame_skip, "ale_py": emulator.__version__,
    }  # fmt: skip
    check_manifest(out, "arcade", made_with)
    play_throughs = [
        PlayThrough(game, group, num_clips, frames, size, seed, frame_skip)
        for game in chosen
        for group, num_clips in enumerate(groups, start=1)
    ]
    unfinished = [play for play in play_throughs if not all(path.exists() for path in play.paths(out))]
    num_clips = len(chosen) * clips_per_game
    kept = num_clips - sum(play.num_clips for play in unfinished)
    written = 0
    with tqdm(total=num_clips, initial=kept, unit="clip", desc="arcade") as progress:
        for play, count in record_all(out, unfinished, workers):
            written += count
            progress.update(play.num_clips)
    num_test = _write_lists(out, play_throughs, _num_test_groups(len(groups), test_fraction))
    names = sorted(class_name(game) for game in chosen)
    return ArcadeSummary(out, names, num_clips - num_test, num_test, written, num_clips - written, left_out)


def class_name(game: str) -> str:
    """`ms_pacman` to `MsPacman`."""
    return "".join(part.capitalize() for part in game.split("_"))


@dataclass(frozen=True)
class PlayThrough:
    """One seeded game at random, from which `num_clips` clips are recorded."""

    game: str
    group: int
    num_clips: int
    frames: int
    size: int | None
    seed: int
    frame_skip: int

    def names(self) -> list[str]:
        """File names relative to the folder of the data set, as its lists have them."""
        name = class_name(self.game)
        return [f"{name}/v_{name}_g{self.group:02d}_c{clip:02d}.avi" for clip in range(1, self.num_clips + 1)]

    def paths(self, out: Path) -> list[Path]:
        return [out / name for name in self.names()]

    def record(self, out: Path) -> int:
        """Plays and writes the files that are not there yet; returns how many."""
        player = _RandomPlayer(self.game, f"{self.seed}/{self.game}/{self.group}")
        player.play(*_WARM_UP_STEPS)
        written = 0
        for path in self.paths(out):
            clip = player.record(self.frames, self.frame_skip)  # always: later clips depend on it
            player.play(*_STEPS_BETWEEN_CLIPS)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path, _resize(clip, self.size), FRAMES_PER_SECOND / self.frame_skip)
                written += 1
        return written


class _RandomPlayer:
    """A game under random actions, each held for some steps so that they show as motion."""

    def __init__(self, game: str, name_of_seed: str):
        self.random = random_of(name_of_seed)
        self.game, switched_on = _switched_on(game)
        self.game.restoreSystemState(switched_on)
        self.actions = self.game.getMinimalActionSet()
        self.action = self.actions[0]
        self.steps_to_hold = 0

    def step(self) -> bool:
        """Advances by one console frame; False if the game was over and has been started again."""
        if self.steps_to_hold == 0:
            self.action = self.actions[self.random.integers(len(self.actions))]
            self.steps_to_hold = int(self.random.integers(*_STEPS_HOLDING_AN_ACTION))
        self.steps_to_hold -= 1
        self.game.act(self.action)
        if self.game.game_over():
            self.game.reset_game()
            return False
        return True

    def play(self, at_least: int, below: int) -> None:
        for _ in range(int(self.random.integers(at_least, below))):
            self.step()

    def record(self, num_frames: int, frame_skip: int) -> np.ndarray:
        """The next `num_frames` frames without the game starting again in between and not all the same
        (waiting for a key, a black pause); if that does not happen soon, the last ones tried, so that long videos
        may hold a cut where the game starts again. Returns uint8 `F H W C`."""
        for _ in range(max(1, _FRAMES_TRIED_PER_CLIP // num_frames)):
            screens, unbroken = [], True
            for _ in range(num_frames):
                before = self.game.getScreenRGB()
                for step in range(frame_skip):
                    if step == frame_skip - 1:
                        before = self.game.getScreenRGB()
                    unbroken &= self.step()
                # The console draws some sprites on every second frame only: the brighter of two
                # neighbouring frames shows them all (Mnih et al. 2015, Methods).
                screens.append(np.maximum(before, self.game.getScreenRGB()))
            clip = np.stack(screens)
            if unbroken and (num_frames == 1 or (clip[1:] != clip[:-1]).any()):
                break
        return clip


@lru_cache(maxsize=8)
def _switched_on(game: str) -> tuple[Any, Any]:
    """An emulator with the game in it, and its state at the start. Kept, since loading a game takes as
    long as recording three clips; chance enters by the actions, so one start serves every play-through."""
    emulator = _import_emulator()
    console = emulator.ALEInterface()
    console.setInt("random_seed", 0)
    console.setFloat("repeat_action_probability", 0.0)
    console.loadROM(str(emulator.roms.get_rom_path(game)))
    return console, console.cloneSystemState()


def _import_emulator() -> Any:
    try:
        import ale_py
        import ale_py.roms
    except ImportError as error:
        raise UserError("Arcade data needs the Atari emulator and its games: pip install 'evagen[arcade]'") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for each game loaded
    return ale_py


def _choose_games(games: int | Sequence[str], emulator: Any) -> tuple[list[str], dict[str, str]]:
    shipped = sorted(emulator.roms.get_all_rom_ids())
    left_out = {}
    for game in shipped:
        # Loading one of these ends the process, so they have to be known beforehand.
        if not emulator.ALEInterface.isSupportedROM(emulator.roms.get_rom_path(game)):
            left_out[game] = "needs two players"
        elif game in HARDLY_MOVING_GAMES:
            left_out[game] = "its screen hardly changes under random play"
    playable = [game for game in shipped if game not in left_out]
    if isinstance(games, int):
        in_order = [game for game in PREFERRED_GAMES if game in playable]
        in_order += [game for game in playable if game not in PREFERRED_GAMES]
        if not 1 <= games <= len(in_order):
            raise UserError(f"games={games}: there are 1 to {len(in_order)} to choose from")
        needed = in_order[:games]
        return needed, left_out if games == len(in_order) else {}
    for game in games:
        if game not in shipped:
            near = difflib.get_close_matches(game, shipped, n=1, cutoff=0.0)
            raise UserError(f"there is no game {game!r}; the nearest of {len(shipped)} is {near[0]!r}")
    chosen = [game for game in dict.fromkeys(games) if game in playable]
    left_out = {game: left_out[game] for game in games if game in left_out}
    if not chosen:
        reasons = "; ".join(f"{game}: {reason}" for game, reason in left_out.items()) or "none was named"
        raise UserError(f"no game to record ({reasons}); for instance games=4 takes the first four")
    return chosen, left_out


def _group_sizes(clips_per_game: int) -> list[int]:
    """Clips for each play-through: as many as 8, fewer where there would be less than 8 play-throughs."""
    each = min(_MAX_CLIPS_PER_GROUP, max(1, clips_per_game // _MIN_GROUPS))
    full, rest = divmod(clips_per_game, each)
    return [each] * full + [rest] * (rest > 0)


def _num_test_groups(num_groups: int, test_fraction: float) -> int:
    if test_fraction == 0 or num_groups == 1:
        return 0
    return min(num_groups - 1, max(1, round(num_groups * test_fraction)))


def _write_lists(out: Path, plays: list[PlayThrough], num_test_groups: int) -> int:
    """Writes the lists; as in UCF-101's first split, the first groups are the test set. Returns the number of test
    clips."""
    train: list[str] = []
    test: list[str] = []
    for play in sorted(plays, key=lambda play: (class_name(play.game), play.group)):
        (test if play.group <= num_test_groups else train).extend(play.names())
    write_lists(out, train, test)
    return len(test)


def _resize(frames: np.ndarray, size: int | None) -> np.ndarray:
    """Averages areas down to a short side of `size`, rounded to even numbers for 4:2:0 video."""
    if size is None:
        return frames
    height, width = frames.shape[1:3]
    short = min(height, width)
    new_height, new_width = (2 * round(side * size / short / 2) for side in (height, width))
    resized = [Image.fromarray(frame).resize((new_width, new_height), Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(frame) for frame in resized])
