import torchvision_ops  # noqa: F401  (before anything that imports torchvision)
from eval.detectors import ImageNetworkDetector
from eval.frechet import FrechetVideoDistance, GaussianStatistics, VideoDetector, frechet_distance
from eval.lpips import LPIPSDistance
from eval.perceptual import PerceptualDistance
from eval.reconstruction import psnr, reconstruction_metrics, ssim

__all__ = [
    "FrechetVideoDistance",
    "GaussianStatistics",
    "ImageNetworkDetector",
    "LPIPSDistance",
    "PerceptualDistance",
    "VideoDetector",
    "frechet_distance",
    "psnr",
    "reconstruction_metrics",
    "ssim",
]
