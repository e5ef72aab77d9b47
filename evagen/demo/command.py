"""What `evagen demo` takes."""

import importlib.util
from typing import Annotated

import typer

from evagen.errors import UserError


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model in the box, a pipeline's folder or hub id; may be repeated. All in the box if none"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on")] = 7860,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Of an uploaded video")] = 60.0,
    max_megabytes: Annotated[float, typer.Option(min=0.1, help="Of an uploaded file")] = 50.0,
) -> None:
    """A page to play with in a browser: a video into tokens and back, a class into clips."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError(
            "the page needs gradio, which is not installed; type: pip install -c constraints.txt -e '.[page]'"
        )

    from evagen.demo.models import load_demo_models
    from evagen.demo.page import build_page, check_free, kept_files, launch
    from evagen.demo.upload import Limits
    from evagen.kernels.sources import box

    check_free(host, port)  # before models are loaded
    names = model or list(box())
    if not names:
        raise UserError("there is no model in the box: give one with --model, a pipeline's folder or a hub id")
    models = {name: load_demo_models(name) for name in names}
    limits = Limits(max_seconds, max_megabytes)
    with kept_files():
        launch(build_page(models, limits), limits, host, port)
