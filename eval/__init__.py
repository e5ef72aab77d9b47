from evagen.eval.clip_choice import ClipChoice, SourceClip, SourceVideo
from evagen.eval.detectors import ImageNetworkDetector, load_detector
from evagen.eval.frame_distance import FrameDistance
from evagen.eval.frames import FramePreparation
from evagen.eval.frechet import (
    FewSamplesWarning,
    FrechetVideoDistance,
    GaussianStatistics,
    VideoDetector,
    features_of,
    frechet_distance,
    frechet_distance_between,
)
from evagen.eval.i3d import I3D_FILE, I3DDetector
from evagen.eval.kernel import KernelVideoDistance, kernel_distance
from evagen.eval.lpips import LPIPSDistance
from evagen.eval.motion import (
    MotionExplained,
    frame_change,
    motion_explained,
    moving_errors,
    moving_places,
    moving_share,
)
from evagen.eval.network_input import NetworkInput, PreparedDetector
from evagen.eval.perceptual import PerceptualDistance
from evagen.eval.protocol import Protocol
from evagen.eval.protocols import PROTOCOLS, get_protocol
from evagen.eval.reconstruction import psnr, psnr_of_mse, reconstruction_metrics, ssim
from evagen.eval.uncertainty import (
    Extrapolation,
    Interval,
    bootstrap_interval,
    extrapolated_distance,
    paired_bootstrap,
)
from evagen.eval.videomae import VideoMAEDetector

__all__ = [
    "I3D_FILE",
    "PROTOCOLS",
    "ClipChoice",
    "Extrapolation",
    "FewSamplesWarning",
    "FrameDistance",
    "FramePreparation",
    "FrechetVideoDistance",
    "GaussianStatistics",
    "I3DDetector",
    "ImageNetworkDetector",
    "Interval",
    "KernelVideoDistance",
    "LPIPSDistance",
    "MotionExplained",
    "NetworkInput",
    "PerceptualDistance",
    "PreparedDetector",
    "Protocol",
    "SourceClip",
    "SourceVideo",
    "VideoDetector",
    "VideoMAEDetector",
    "bootstrap_interval",
    "extrapolated_distance",
    "features_of",
    "frame_change",
    "frechet_distance",
    "frechet_distance_between",
    "get_protocol",
    "kernel_distance",
    "load_detector",
    "motion_explained",
    "moving_errors",
    "moving_places",
    "moving_share",
    "paired_bootstrap",
    "psnr",
    "psnr_of_mse",
    "reconstruction_metrics",
    "ssim",
]
