"""The report of a run: one HTML file that opens from disk, without a network."""

from evagen.report.page import (
    ClipPair,
    CurvePoint,
    GeneratedClip,
    LossCurve,
    RealClip,
    Report,
    Summary,
    write_report,
)

__all__ = [
    "ClipPair",
    "CurvePoint",
    "GeneratedClip",
    "LossCurve",
    "RealClip",
    "Report",
    "Summary",
    "write_report",
]
