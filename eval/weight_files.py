"""Published files of weights: found on this machine or downloaded, and known by their SHA-256."""

import hashlib
import logging
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

from evagen.kernels.files import atomic_write

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class WeightFile:
    """A published file. `variable` is the environment variable that may hold its path, `sha256` the 64 hexadecimal
    digits of its checksum or the first of them, `megabytes` its size, `mirrors` the addresses it can be had from, the
    first tried first, `other_form` what may be given in its place."""

    name: str
    variable: str
    sha256: str
    megabytes: int
    mirrors: Sequence[str]
    other_form: str = ""

    @property
    def cached_at(self) -> Path:
        """Where a download is kept: in torch's hub folder, as torchvision's are."""
        return Path(torch.hub.get_dir(), "checkpoints", self.name)

    @property
    def named(self) -> str | None:
        """The path that the environment variable holds, if any."""
        return os.environ.get(self.variable) or None

    @property
    def looked_for_at(self) -> Path:
        """Where the file is expected when no path is given: where the environment variable says, or in the cache."""
        return Path(self.named or self.cached_at)

    def find(self, path: str | Path | None = None, download: bool = True) -> Path:
        """`path`, the path that the environment variable names, the cached file, or, if `download`, what the first
        mirror that answers sends, the first of these that there is. Only a download's checksum is looked at.

        Raises FileNotFoundError where there is no file."""
        given = path or self.named
        if given is not None and not Path(given).is_file():
            raise FileNotFoundError(f"there is no file {given}; expected is {self._description()}")
        if given is None and not self.cached_at.is_file():
            self._download(download)
        return Path(given or self.cached_at)

    def read(self, path: str | Path | None = None, sha256: str | None = None, download: bool = True) -> bytes:
        """The bytes of the file that `find` finds, whose checksum is right.

        `sha256` is expected in place of the published one, for a file of the user's own. Raises ValueError for a
        wrong checksum, FileNotFoundError where there is no file."""
        expected = sha256 or self.sha256
        found = self.find(path, download)
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
            f"Fetch {self.name} ({self.megabytes} MB, SHA-256 {self._checksum()}) on a machine with network access "
            f"from one of {len(self.mirrors)} places:"
            + "".join(f"\n  {mirror}" for mirror in self.mirrors)
            + f"\nand put it at {self.cached_at}, or anywhere and set {self.variable} to its path"
        )

    def _fetch(self, mirror: str) -> None:
        logging.getLogger(__name__).warning("fetching %s (%d MB) from %s", self.name, self.megabytes, mirror)
        digest = hashlib.sha256()
        with atomic_write(self.cached_at) as unfinished:
            with urllib.request.urlopen(mirror, timeout=TIMEOUT_SECONDS) as source, unfinished.open("wb") as sink:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    sink.write(chunk)
            if not digest.hexdigest().startswith(self.sha256):
                raise ValueError(f"sent a file of SHA-256 {digest.hexdigest()}, expected is {self._checksum()}")

    def _checksum(self) -> str:
        return self.sha256 if len(self.sha256) == 64 else f"{self.sha256}…"

    def _description(self) -> str:
        other = f", or {self.other_form}" if self.other_form else ""
        return f"{self.name} ({self.megabytes} MB, SHA-256 {self._checksum()}) from {' or '.join(self.mirrors)}{other}"
