import torchvision_ops  # noqa: F401  (before anything that imports torchvision)
from eval.clip_choice import ClipChoice, SourceClip, SourceVideo
from eval.detectors import ImageNetworkDetector, load_detector
from eval.frames import FramePreparation
from eval.frechet import (
    FewSamplesWarning,
    FrechetVideoDistance,
    GaussianStatistics,
    VideoDetector,
    features_of,
    frechet_distance,
    frechet_distance_between,
)
from eval.i3d import I3D_FILE, I3DDetector
from eval.kernel import KernelVideoDistance, kernel_distance
from eval.lpips import LPIPSDistance
from eval.network_input import NetworkInput, PreparedDetector
from eval.perceptual import PerceptualDistance
from eval.protocols import PROTOCOLS, Protocol, get_protocol
from eval.reconstruction import psnr, reconstruction_metrics, ssim
from eval.uncertainty import Extrapolation, Interval, bootstrap_interval, extrapolated_distance
from eval.videomae import VideoMAEDetector

__all__ = [
    "I3D_FILE",
    "PROTOCOLS",
    "ClipChoice",
    "Extrapolation",
    "FewSamplesWarning",
    "FramePreparation",
    "FrechetVideoDistance",
    "GaussianStatistics",
    "I3DDetector",
    "ImageNetworkDetector",
    "Interval",
    "KernelVideoDistance",
    "LPIPSDistance",
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
    "frechet_distance",
    "frechet_distance_between",
    "get_protocol",
    "kernel_distance",
    "load_detector",
    "psnr",
    "reconstruction_metrics",
    "ssim",
]
