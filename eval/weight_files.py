"""Files of weights that are known by their SHA-256: found on disk or downloaded, and never loaded unchecked."""

import hashlib
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class WeightFile:
    """A published file. `variable` is the environment variable that may hold its path, `sha256` the 64 hexadecimal
    digits of its checksum, `megabytes` its size, `mirrors` the addresses it can be had from, the first tried first."""

    name: str
    variable: str
    sha256: str
    megabytes: int
    mirrors: Sequence[str]

    @property
    def cached_at(self) -> Path:
        """Where a download is kept: in torch's hub folder."""
        return Path(torch.hub.get_dir(), "checkpoints", self.name)

    def read(self, path: str | Path | None = None, sha256: str | None = None, download: bool = True) -> bytes:
        """The bytes of the file at `path`, at the path that the environment variable names, in the cache, or, if
        `download`, of the first mirror that answers, the first of these that there is.

        `sha256` is expected in place of the published one, for a file of the user's own. Raises ValueError for a
        wrong checksum, FileNotFoundError where there is no file."""
        expected = sha256 or self.sha256
        given = path or os.environ.get(self.variable)
        if given is not None and not Path(given).is_file():
            raise FileNotFoundError(f"there is no file {given}; expected is {self._description()}")
        if given is None and not self.cached_at.is_file():
            self._download(download)
        found = Path(given) if given is not None else self.cached_at
        content = found.read_bytes()
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected.lower():
            raise ValueError(
                f"{found} is not the expected file and was not loaded: its SHA-256 is {actual}, expected is {expected} "
                f"({len(content):,} bytes; a broken download is shorter). Replace it by {self._description()}"
            )
        return content

    def _download(self, allowed: bool) -> None:
        """Puts the file into the cache. Raises FileNotFoundError where no mirror gives it."""
        failures = []
        for mirror in self.mirrors if allowed else ():
            try:
                return self._fetch(mirror)
            except (OSError, ValueError) as error:
                failures.append(f"{urlsplit(mirror).netloc}: {error}")
        tried = "no mirror gave it" if failures else "downloading is switched off"
        reasons = "".join(f"\n  {failure}" for failure in failures)
        raise FileNotFoundError(
            f"{self.name} is not on this machine and {tried}.{reasons}\n"
            f"Fetch {self.name} ({self.megabytes} MB, SHA-256 {self.sha256}) on a machine with network access from one "
            f"of {len(self.mirrors)} places:"
            + "".join(f"\n  {mirror}" for mirror in self.mirrors)
            + f"\nand put it at {self.cached_at}, or anywhere and set {self.variable} to its path"
        )

    def _fetch(self, mirror: str) -> None:
        self.cached_at.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.cached_at.with_name(f".{self.name}.{os.getpid()}.part")
        digest = hashlib.sha256()
        try:
            with urllib.request.urlopen(mirror, timeout=TIMEOUT_SECONDS) as source, unfinished.open("wb") as sink:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    sink.write(chunk)
            if digest.hexdigest() != self.sha256:
                raise ValueError(f"sent a file of SHA-256 {digest.hexdigest()}, expected is {self.sha256}")
            unfinished.replace(self.cached_at)
        finally:
            unfinished.unlink(missing_ok=True)

    def _description(self) -> str:
        return f"{self.name} ({self.megabytes} MB, SHA-256 {self.sha256}) from {' or '.join(self.mirrors)}"
