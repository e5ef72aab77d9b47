"""The networks that frames and clips are compared with, by what the user asks for."""

from typing import Literal

from evagen.config import Place, Section
from evagen.errors import UserError
from evagen.eval import (
    I3D_FILE,
    FrameDistance,
    ImageNetworkDetector,
    LPIPSDistance,
    PerceptualDistance,
    PreparedDetector,
    Protocol,
    VideoMAEDetector,
    load_detector,
)
from evagen.eval.lpips import VGG16_FILE
from evagen.eval.videomae import VIDEOMAE

DetectorName = Literal["protocol", "offline", "videomae"]
"""`protocol`: I3D, the only one whose distance is FVD. `offline`: EfficientNet-Lite0, frame by frame, from a package.
`videomae`: a VideoMAE, folder or hub id."""


class PerceptualNetwork(Section):
    """The network that compares frames."""

    network: Literal["offline", "lpips"] = "offline"
    """`offline`: EfficientNet-Lite0 from a package. `lpips`: LPIPS-VGG16, as papers train with."""
    vgg16: Place | None = None
    """File of VGG16's weights for `lpips`; downloaded if None."""

    def load(self) -> FrameDistance:
        """Raises UserError where the network is not within reach, the file holds other weights, or a file is given for
        a network that takes none."""
        if self.network == "offline" and self.vgg16 is not None:
            raise UserError(f"vgg16={self.vgg16} is for network=lpips; the offline network comes with its own weights")
        try:
            return PerceptualDistance() if self.network == "offline" else LPIPSDistance(self.vgg16)
        except (FileNotFoundError, ImportError, ValueError) as error:
            raise UserError(str(error)) from error


class ComparisonNetwork(PerceptualNetwork):
    """The network that compares reconstructed frames with real ones."""

    network: Literal["auto", "offline", "lpips"] = "auto"  # type: ignore[assignment]
    """`auto`: LPIPS-VGG16 where its weights are on this machine, otherwise the offline network, under its own name."""

    def load(self) -> FrameDistance:
        """Raises UserError as `PerceptualNetwork.load` does."""
        is_here = self.vgg16 is not None or VGG16_FILE.named is not None or VGG16_FILE.cached_at.is_file()
        network = ("lpips" if is_here else "offline") if self.network == "auto" else self.network
        return PerceptualNetwork(network=network, vgg16=self.vgg16).load()


def choose_detector(
    protocol: Protocol, name: DetectorName, weights: str | None, sha256: str | None, download: bool
) -> PreparedDetector:
    """A detector behind the protocol's preprocessing. weights: I3D's file, or VideoMAE's folder or hub id;
    sha256: of an I3D file of the user's own. Raises UserError where the network is not within reach, or its file is
    another one than expected."""
    if name == "offline" and weights is not None:
        raise UserError(f"the offline network carries its own weights; {weights} is not for it")
    if name != "protocol" and sha256 is not None:
        raise UserError(f"a checksum is checked of I3D's file only, not of the network {name}")
    try:
        if name == "protocol":
            return load_detector(protocol, weights, sha256, download)
        network = ImageNetworkDetector() if name == "offline" else VideoMAEDetector(weights or VIDEOMAE, download)
        return PreparedDetector(network, protocol.network_input)
    except FileNotFoundError as error:
        hint = ". Or measure with a network that comes as a package, which does not give FVD: the detector `offline`"
        raise UserError(f"{error}{hint if name != 'offline' else ''}") from error
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error


def gives_fvd(fingerprint: str) -> bool:
    """Whether distances in this detector's features may be called FVD."""
    return fingerprint == I3D_FILE.sha256
