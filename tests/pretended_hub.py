"""The Hugging Face hub without a network: what is pushed by HTTP lands in a cache of its layout, from where it is
loaded."""

import base64
import importlib
import json
from pathlib import Path

from huggingface_hub import constants, utils
from huggingface_hub.errors import HTTPError

http = importlib.import_module(HTTPError.__module__.partition(".")[0])  # the client library that the hub's is built on
COMMIT = "0" * 40


class PretendedHub:
    """cache: the folder. status: what the hub answers to whoever makes a repository; None for no network. visibility:
    of the repository that was made last."""

    def __init__(self, cache: Path):
        self.cache, self.status, self.visibility = cache, 200, None

    def answer(self, request):
        if self.status is None:
            raise http.ConnectError("no route to host")
        path = request.url.path
        if path.endswith("/repos/create"):
            asked = json.loads(request.content)
            self.visibility = asked.get("visibility")
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            return self._json(
                {"url": f"https://huggingface.co/{name}"} if self.status == 200 else {"error": "no"}, request
            )
        if path.endswith("/validate-yaml"):
            return self._json({"errors": [], "warnings": []}, request)
        if "/preupload/" in path:
            files = json.loads(request.content)["files"]
            answers = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
            return self._json({"files": answers}, request)
        if "/commit/" in path:
            owner, name = path.split("/")[3:5]
            self._commit(f"{owner}/{name}", request.read())
            address = f"https://huggingface.co/{owner}/{name}"
            return self._json({"commitUrl": f"{address}/commit/{COMMIT}", "commitOid": COMMIT}, request)
        return http.Response(
            404, json={"error": "not found"}, request=request, headers={"X-Error-Code": "RepoNotFound"}
        )

    def _json(self, values: dict, request):
        return http.Response(self.status, json=values, request=request)

    def _commit(self, repo: str, body: bytes) -> None:
        folder = self.cache / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(COMMIT)
        for each in map(json.loads, body.splitlines()):
            if each["key"] == "file":
                path = folder / "snapshots" / COMMIT / each["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(each["value"]["content"]))

    def files_of(self, repo: str) -> Path:
        return self.cache / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT


def pretend(cache: Path, monkeypatch) -> PretendedHub:
    """Until the test's end, which should call `utils.close_session`."""
    hub = PretendedHub(cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    utils.set_client_factory(lambda: http.Client(transport=http.MockTransport(hub.answer)))
    return hub
