"""Records of scores that nobody measured."""

import json
from pathlib import Path

from evagen.eval import I3D_FILE, get_protocol
from evagen.scoring.record import Clips, Detector, Model, Record, Score, write_record

I3D = Detector(name="i3d-kinetics400-torchscript", fingerprint=I3D_FILE.sha256)
OFFLINE = Detector(name="efficientnet-lite0-framewise", fingerprint="0123456789abcdef")


def record(folder: Path, label: str, value: float, protocol="larp-ucf101-class2video", detector=I3D, **changes) -> Path:
    is_fvd = detector is I3D
    chosen = get_protocol(protocol) if isinstance(protocol, str) else protocol
    found = Record(
        label=label,
        protocol=json.loads(json.dumps(chosen.as_dict())),
        score=Score(
            name="gFVD" if is_fvd else "Fréchet distance", value=value, low=value - 1, high=value + 1, level=0.95,
            standard_error=0.5, resamples=100, kernel_distance=0.1,
        ),
        real_clips=10_000, generated_clips=10_000, detector=detector,
        models=changes.pop("models", {"generator": Model(source=label, fingerprint="ab")}),
        data=Clips(root="/ucf101", videos=9_537, clips=changes.pop("clips", "c" * 16), statistics="d" * 16),
        remarks=[], code={"evagen": "0"}, environment={}, seconds=1.0, **changes,
    )  # fmt: skip
    folder.mkdir(parents=True)
    write_record(folder / "record.json", found)
    return folder
