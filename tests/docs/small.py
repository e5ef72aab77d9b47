"""How each command of the documentation is carried out in a test: in a small form, or checked in another stated way.

A command that no plan begins is an error. The first plan that fits counts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

How = Literal[
    "run",
    "parse",
    "script",
    "target",
    "extras",
    "environment",
    "launch",
    "pytest",
    "ffmpeg",
    "folder",
    "clone",
    "login",
]


@dataclass(frozen=True)
class Plan:
    """begins: regular expression of a command; how: `run` in a small form, or a check of `typed.py`; add: words put
    behind it; swap: words put in place of others, by regular expression; why: what is gained, and where the command
    itself is run if not here."""

    begins: str
    how: How
    why: str
    add: str = ""
    swap: tuple[tuple[str, str], ...] = ()


STEPS = "run.tracker=none run.log_every=1 optimizer.steps=2 optimizer.warmup_steps=0 optimizer.accumulation=1"
NARROW = (
    "model.encoder_width=32 model.encoder_depth=1 model.encoder_heads=2 model.decoder_width=32 model.decoder_depth=1 "
    "model.decoder_heads=2 model.codebook_size=64 model.levels=[4,24,64] loss.compare.frames=1 loss.perceptual=0 "
    "held_out.clips=0 optimizer.batch_size=2 run.compile=false"
)
GENERATOR = "model.size=null model.width=32 model.depth=1 model.num_heads=2"
ROUTER = "model.downscale=2 model.patch=4 model.width=32 model.depth=1 model.num_heads=2"
ON_A_CPU = "run.num_workers=0"
WITHOUT_NETWORKS = "loss.alignment.weight=0 loss.adversarial.discriminator=none loss.compare.network=offline"
PAPER = "(ucf101_k600|webvid)/"
FEWER_LEVELS = "data.size=32 model.levels=[2,4]"
SCORES = "detector=offline certainty.resamples=3 batch_size=4 changes.dataset=small cache=cache"
OF_MODELS = "run.precision=fp32"
OF_TOKENIZERS = f"{OF_MODELS} compare.network=offline"
"""Half precision is slow on a CPU. Neither is asked of videos."""
ELSEWHERE = (
    ("data.root=(/|data/)(ucf101|UCF-101)", r"data.root=ucf101 data.layout=ucf101"),
    ("data.root=(/|data/)k600", "data.root=k600 data.layout=kinetics"),
    ("data.root=/", "data.root="),
)
"""A reader's own disk."""

PLANS = (
    Plan("evagen doctor", "parse", "tests/commands/test_cli.py runs it; what it finds is the machine's"),
    Plan(r"evagen (bench|demo|push)\b", "parse", "minutes, no end, or the network; tests of their own run them"),
    Plan("evagen quickstart", "parse", "minutes; tests/commands runs its stages, tests/report its report"),
    Plan("evagen study (quality|fixed|long)", "parse", "minutes even in little; tests/commands runs each of them"),
    Plan("evagen .* --dry-run", "parse", "minutes at the paper's sizes; tests/commands/test_dry_run.py runs others"),
    Plan("evagen data arcade .*--frames 900", "run", "seconds of one game in place of minutes",
         add="--games boxing --clips-per-game 3 --frames 112 --workers 1"),
    Plan("evagen data arcade", "run", "few clips of two games",
         add="--games boxing,skiing --clips-per-game 4 --workers 1"),
    Plan("evagen data natural", "run", "few small clips",
         add="--clips 4 --test-clips 2 --size 32 --workers 1"),
    Plan("evagen data cut", "run", "clips of two frames, of which short videos have enough",
         add="--frames 2 --size 32 --workers 1"),
    Plan("evagen data scan", "run", "in one process", add="--workers 1"),
    Plan(f"evagen train-tokenizer {PAPER}", "run", "two steps of a narrow model, without networks to download",
         add=f"{STEPS} {NARROW} {ON_A_CPU} {WITHOUT_NETWORKS} {FEWER_LEVELS} run.mixed_precision=no"),
    Plan("evagen train-tokenizer box_.* run.mixed_precision=bf16", "run", "two steps of a narrow model, in fp32",
         add=f"{STEPS} {NARROW} {ON_A_CPU} run.mixed_precision=no"),
    Plan("evagen train-tokenizer .*held_out.best", "run", "two steps of a narrow model, and a look after each",
         add=f"{STEPS} {NARROW} held_out.clips=2 held_out.every=1"),
    Plan("evagen train-tokenizer .*start_from", "run", "two steps of the model that it starts from",
         add=f"{STEPS} {NARROW}"),
    Plan("evagen train-tokenizer", "run", "two steps of a narrow model", add=f"{STEPS} {NARROW}"),
    Plan(f"evagen curate {PAPER}", "run", "two clips, without networks to download",
         add=f"{ON_A_CPU} data.limit=2 data.size=32 compare.network=offline distance_frames=1"),
    Plan("evagen curate arcade_minutes/curation", "run", "a short past of one video",
         add="data.limit=1 data.frames=20 past=2 future=1 distance_frames=1"),
    Plan("evagen curate arcade_minutes", "run", "two clips", add="data.limit=2 data.clip=first distance_frames=1"),
    Plan("evagen curate", "run", "two clips", add="data.limit=2 distance_frames=1"),
    Plan(f"evagen train-router {PAPER}", "run", "two steps of a narrow model",
         add=f"{STEPS} {ROUTER} {ON_A_CPU} optimizer.batch_size=2 run.mixed_precision=no held_out=0"),
    Plan("evagen train-router", "run", "two steps", add=f"{STEPS} optimizer.batch_size=2"),
    Plan(f"evagen tokenize {PAPER}", "run", "few clips", add=f"{ON_A_CPU} data.size=32 data.limit=4",
         swap=(("prediction_tokens$", "prediction_tokens prefix=[4,2]"),)),
    Plan("evagen tokenize", "run", "few clips", add="data.limit=4"),
    Plan("evagen train-generator", "run", "two steps of a narrow model",
         add=f"{STEPS} {GENERATOR} run.mixed_precision=no run.compile=false optimizer.batch_size=null "
         "optimizer.tokens_per_batch=400"),
    Plan(f"evagen sample {PAPER}", "run", "one clip of each class", add="clips_per_class=1 slots=4", swap=(
        ("prediction_sample$", "prediction_sample given.prefix=[4,2] given.data.size=32 given.data.limit=1"),)),
    Plan("evagen sample arcade_minutes", "run", "seconds in place of a minute", add="clips_per_class=1 slots=4", swap=(
        ("seconds=(60|30)", ""), ("/sample", "/sample seconds=4"), ("frames=96", "frames=48"))),
    Plan("evagen sample .*--class", "run", "as it stands"),
    Plan("evagen sample", "run", "one clip of each class", add="clips_per_class=1 slots=4"),
    Plan("evagen benchmark .*LARP", "run", "few clips, a tiny model of LARP's kind", swap=(
        *ELSEWHERE, (r"tokenizer=\S+", "tokenizer=larp"), ("uniform_length=1024", "uniform_length=24")),
        add=f"{SCORES} {OF_TOKENIZERS} changes.size=32"),
    Plan("evagen benchmark .*k600-frame-prediction", "run", "few clips, without networks to download", swap=ELSEWHERE,
         add=f"{SCORES} {OF_MODELS} changes.size=32 changes.drawn=2 changes.given_lengths=[4,2]"),
    Plan("evagen benchmark .*-class2video.*runs/ucf101_k600", "run", "few clips, without networks to download",
         swap=ELSEWHERE, add=f"{SCORES} {OF_MODELS} changes.size=32 changes.drawn=4"),
    Plan("evagen benchmark .*runs/ucf101_k600", "run", "few clips, without networks to download", swap=ELSEWHERE,
         add=f"{SCORES} {OF_TOKENIZERS} changes.size=32"),
    Plan("evagen benchmark .*samples=", "run", "two clips", swap=ELSEWHERE,
         add=f"{SCORES} changes.size=64 changes.drawn=2"),
    Plan("evagen benchmark .*(-class2video|-heldout)", "run", "few clips, without networks to download",
         swap=ELSEWHERE, add=f"{SCORES} {OF_MODELS} changes.size=64 changes.drawn=2"),
    Plan("evagen benchmark", "run", "few clips, without networks to download",
         swap=(*ELSEWHERE, (r"uniform_length=\d+", "uniform_length=24"), (r"changes.drawn=\d+", "changes.drawn=2")),
         add=f"{SCORES} {OF_TOKENIZERS} changes.size=64"),
    Plan("evagen fvd", "run", "without networks to download", add="--detector offline --resamples 3"),
    Plan("evagen (configs|protocols|compare|info|encode|decode|reconstruct|export|import|report)", "run",
         "as it stands"),
    Plan("evagen study lengths", "run", "as it stands"),
    Plan("accelerate launch", "launch", "its options are parsed by accelerate and its file is read, and the program is "
         "run in this process; tests of every room start several"),
    Plan("python -m evagen", "launch", "the same program"),
    Plan("python (docs|examples)/", "script", "as it stands, in this process"),
    Plan("make", "target", "`make -n`: the target is there"),
    Plan("pip install", "extras", "nothing is installed in a test; the file and the extras are there"),
    Plan("git clone", "clone", "nothing is downloaded in a test; it is a public address"),
    Plan("hf auth login", "login", "it asks for a token"),
    Plan("source", "environment", "the Makefile makes this environment"),
    Plan("tensorboard", "folder", "a server does not end; the folder that it shows is there"),
    Plan("ffmpeg", "ffmpeg", "another program, not always there; the same video is written in its place"),
    Plan(".venv/bin/python -m pytest", "pytest", "no tests within tests; the file is there"),
)  # fmt: skip

ALSO = (("evagen (train-tokenizer|curate|tokenize) arcade_nano/", "data.classes=null data.without_classes=[]"),)
"""What more is put behind commands, whatever their plan: the games that there are."""


PYTHON_BEGINS = {
    "docs/tokens.md": "import torch; video = torch.zeros(3, 24, 48, 64)",
    "docs/long-videos.md": "import torch; frames = [torch.zeros(3, 64, 64)] * 40",
    "docs/evaluation.md": (
        "import torch; frames = torch.zeros(16, 48, 64, 3, dtype=torch.uint8); "
        "real_batch, generated_batch = torch.rand(2, 3, 3, 16, 128, 128) * 2 - 1; "
        "from evagen.eval import ImageNetworkDetector, PreparedDetector"
    ),
}
"""What a page's Python takes for granted."""
PYTHON_SWAPS = {
    "docs/hub.md": (
        ('"you/my-model", revision="main"', '"runs/mine/pipeline"'),
        ('"you/my-model"', '"runs/mine/pipeline"'),
    ),
    "docs/library.md": (
        ("STEPS = 2000", "STEPS = 2"),
        ("batch_size=8", "batch_size=2"),
        ("size=64", "size=32"),
        ("resolution=64", "resolution=32"),
        ("coder_width=192", "coder_width=32"),
        ("coder_depth=4", "coder_depth=1"),
        ("coder_heads=3", "coder_heads=2"),
        ("RewardScale.of(distances, space)", "RewardScale.min_max(space, 0.1, 0.2)"),
        ("width=96, depth=4, num_heads=3", "width=32, depth=1, num_heads=2"),
        ("    width=192,\n    depth=4,\n    num_heads=3,", "    width=32, depth=1, num_heads=2,"),
    ),
    "docs/evaluation.md": (
        ('get_protocol("larp-ucf101-class2video")', 'get_protocol("larp-ucf101-class2video").changed(drawn=2)'),
        ('load_detector(protocol).to("cuda")', "PreparedDetector(ImageNetworkDetector(), protocol.network_input)"),
    ),
}
"""Whole data sets, networks that would be downloaded, and devices."""
PYTHON_NOT_RUN = {"from vllm import": "no server is installed in a test; it compiles"}
"""Blocks with these words are only compiled."""


def plan_of(words: Sequence[str]) -> Plan:
    """Raises LookupError for a command without a plan."""
    text = " ".join(words)
    for plan in PLANS:
        if re.match(plan.begins, text):
            return plan
    raise LookupError(f"`{text}` has no plan: say in tests/docs/small.py how it is run or checked")


def small_form(words: Sequence[str]) -> list[str]:
    """The command as it is run."""
    plan = plan_of(words)
    words = list(words)
    for pattern, other in plan.swap:
        swapped = [(word, re.sub(pattern, other, word)) for word in words]
        words = [part for word, now in swapped for part in ([word] if now == word else now.split())]
    text = " ".join(words)
    also = [add for begins, add in ALSO if re.match(begins, text)]
    return words + " ".join([plan.add, *also]).split()
