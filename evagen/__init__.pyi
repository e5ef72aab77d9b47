# For type checkers, which do not follow the `__getattr__` of `__init__.py`.
from evagen.sampling.pipeline import VideoPipeline as VideoPipeline

__version__: str
