"""I3D, the network of the Fréchet video distance.

The file is StyleGAN-V's TorchScript port of the network that the FVD paper used, Kinetics-400, "perfectly precise" up
to floating point (github.com/universome/fvd-comparison). LARP, AdapTok and most papers since use this very file.

Letters: B videos, F frames of a video, H and W pixels, D = 400 features.
"""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from evagen.eval.network_input import check_videos
from evagen.eval.weight_files import WeightFile
from evagen.kernels.fp32 import in_fp32
from evagen.kernels.frozen import Frozen

I3D_FILE = WeightFile(
    name="i3d_torchscript.pt",
    variable="EVAGEN_I3D",
    # Ten public repositories state this checksum, those that fetch the file from Dropbox and those that fetch it from
    # flateon/FVD-I3D-torchscript or ByteDance/LatentSync-1.5, some with the size of 51,235,320 bytes.
    sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    megabytes=51,
    mirrors=(
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        "https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/main/i3d_torchscript.pt",
        "https://huggingface.co/ByteDance/LatentSync-1.5/resolve/main/auxiliary/i3d_torchscript.pt",
        "https://github.com/JunyaoHu/common_metrics_on_video_quality/raw/main/fvd/styleganv/i3d_torchscript.pt",
    ),
)
"""The network of FVD as LARP, AdapTok and StyleGAN-V use it, where it is looked for, and where it is to be had."""


class I3DDetector(nn.Module):
    """The 400 values of I3D's last layer before the softmax.

    It takes clips as `eval.network_input.NetworkInput` leaves them: floats in [-1, 1], as LARP and AdapTok call it,
    or uint8, which the network itself scales, as StyleGAN-V does. Other sizes than 224×224 it resizes itself.

    Args:
        path: of `i3d_torchscript.pt`; if None, what the environment variable EVAGEN_I3D names, or else the cached
            file, or else a download (51 MB) into torch's hub folder.
        sha256: of a TorchScript file of your own with I3D's signature. It is then called by its checksum, and its
            distances are not FVD.
        download: whether there may be one.

    `fingerprint` is the SHA-256 of the file. Raises FileNotFoundError where there is no file within reach, ValueError
    for a file of another checksum, which is not loaded: TorchScript is code."""

    num_features = 400
    min_frames = 10
    network_size = 224

    def __init__(self, path: str | Path | None = None, sha256: str | None = None, download: bool = True):
        super().__init__()
        content = I3D_FILE.read(path, sha256, download)
        self.fingerprint = (sha256 or I3D_FILE.sha256).lower()
        own = self.fingerprint != I3D_FILE.sha256
        self.name = f"torchscript-{self.fingerprint[:8]}" if own else "i3d-kinetics400-torchscript"
        self.network = Frozen(torch.jit.load(io.BytesIO(content), map_location="cpu"))

    def forward(self, videos: Tensor) -> Tensor:
        """videos `B 3 F H W`, floats in [-1, 1] or uint8, F ≥ 10 → float32 features `(B, 400)`. Raises ValueError for
        other shapes."""
        check_videos(videos, self.min_frames, "I3D")
        resize = videos.shape[-2:] != (self.network_size, self.network_size)
        levels = videos.dtype == torch.uint8
        with torch.no_grad(), in_fp32(videos.device):  # half precision is another network
            return self.network(
                videos if levels else videos.float(), rescale=levels, resize=resize, return_features=True
            )  # (B, D)
