"""The most memory that a process has held, in the units of each system."""

import sys
from types import SimpleNamespace

import psutil
import pytest

from evagen.kernels.memory import peak_memory


def test_it_is_at_least_what_is_held_now():
    held = bytearray(64 << 20)
    assert len(held) < peak_memory() < 2**42
    assert peak_memory() >= 0.9 * psutil.Process().memory_info().rss


def test_macos_counts_in_bytes_and_linux_in_kib(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3000))
    for system, peak in {"darwin": 3000, "linux": 3000 * 1024}.items():
        monkeypatch.setattr(sys, "platform", system)
        assert peak_memory() == peak


def test_windows_is_asked_another_way(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    told = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=5000))
    monkeypatch.setattr(psutil, "Process", lambda: told)
    assert peak_memory() == 5000
