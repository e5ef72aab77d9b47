# What `DiffusionPipeline.from_pretrained(…, trust_remote_code=True)` loads.
from evagen import VideoPipeline

__all__ = ["VideoPipeline"]
