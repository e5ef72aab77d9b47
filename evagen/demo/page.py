"""The page as a whole, and how it is served."""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it is read while gradio is imported

import gradio as gr

from evagen.demo.generate_tab import GenerateTab
from evagen.demo.models import DemoModels
from evagen.demo.rebuild_tab import RebuildTab
from evagen.demo.upload import Limits
from evagen.errors import UserError
from evagen.kernels.sources import FOR_CLASSES, FOR_VIDEOS

USERS_AT_ONCE = 8
"""Whose results are computed in turns; others wait, …"""
MOST_WAITING = 32
"""… at most so many, and whoever comes then is told so."""
KEPT_SECONDS = 1800
"""What was uploaded or computed is deleted after so long."""
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"], ["ui-monospace", "Consolas", "monospace"]
"""Of the reader's machine: nothing is asked of other hosts."""
KNOWS = {FOR_CLASSES: "Atari games", FOR_VIDEOS: "videos of cameras and films"}
"""What the models in the box were trained on: whoever brings a video has to choose."""
INTRO = """<div class="intro"><h1>evagen</h1>
<p>A router looks at a video and says how many discrete tokens each block of frames deserves. A tokenizer encodes the
block into just that many. Stillness costs little, motion gets what it needs.</p></div>"""


@contextmanager
def kept_files() -> Iterator[None]:
    """Around a page's life: what is uploaded and shown lies in a folder of its own, which goes in the end."""
    with tempfile.TemporaryDirectory(prefix="evagen-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when components are made
        yield


def build_page(models: dict[str, DemoModels], limits: Limits) -> gr.Blocks:
    """Ready to be launched. models: by name, the first is shown at first; limits: of uploads."""
    choices = [(f"{name}: {KNOWS[name]}" if name in KNOWS else name, name) for name in models]
    with gr.Blocks(title="evagen", analytics_enabled=False, delete_cache=(KEPT_SECONDS // 3, KEPT_SECONDS)) as page:
        gr.HTML(INTRO)
        name = gr.Dropdown(choices, label="Model", visible=len(models) > 1, elem_id="model")
        with gr.Tab("Rebuild a video"):
            RebuildTab(models, limits).build(page, name)
        if any(each.generator for each in models.values()):
            with gr.Tab("Generate"):
                GenerateTab(models).build(name)
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=USERS_AT_ONCE)


def launch(page: gr.Blocks, limits: Limits, host: str, port: int, wait: bool = True) -> str:
    """Serves the page, to its end unless told not to wait; returns its address. Raises UserError for a port that is
    taken, and for a host that is not this machine."""
    check_free(host, port)
    theme = gr.themes.Default(font=list(FONTS[0]), font_mono=list(FONTS[1]))
    theme.set(body_text_color_subdued="*neutral_500")  # gradio's own can hardly be read on white
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=False, inbrowser=False, quiet=True, ssr_mode=False, mcp_server=False,
        enable_monitoring=False, run_history=False, pwa=False, footer_links=[], prevent_thread_lock=True,
        max_file_size=limits.max_bytes, theme=theme, css_paths=Path(__file__).with_name("page.css"),
    )  # fmt: skip
    print(f"{address}  (end with Ctrl-C)", flush=True)
    if wait:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that it too leaves no files behind
        page.block_thread()
    return address


def check_free(host: str, port: int) -> None:
    """Raises UserError unless the port can be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(f"--host {host} is no name or address that is known here: give 127.0.0.1 or 0.0.0.0") from error
    except PermissionError as error:
        raise UserError(f"--port {port} is for administrators only: give one above 1023") from error
    except OSError as error:
        raise UserError(
            f"port {port} of {host} cannot be listened on ({error.strerror}): another program has it, perhaps another "
            "page of this kind. Give another --port, or check that --host is an address of this machine"
        ) from error
