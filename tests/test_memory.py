"""Freed memory stays with the process, and goes back."""

import platform
import subprocess
import sys
import textwrap

import pytest

from hmode import memory
from hmode.memory import kept_memory

GLIBC = platform.libc_ver()[0] == "glibc"
SCRIPT = """
    import resource
    import torch
    from hmode.memory import kept_memory

    def pages():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def touch():
        before = pages()
        torch.empty(2**25).fill_(1)  # 128 MiB
        return pages() - before

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

    touch()
    small = resident()
    new = touch()
    with kept_memory():
        with kept_memory():
            touch()
        kept, held = [touch() for _ in range(10)], resident()
    print(new, sum(kept) / 10, held - small, resident() - small, touch())
"""


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_blocks_are_used_again_and_go_back(fresh_interpreter_environment):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        env=fresh_interpreter_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    new, kept, held, left, again = map(float, done.stdout.split())
    assert new >= 2**27 / 2**21  # new pages, of 2 MiB if the system's are huge
    assert kept < 0.5 * new  # now and then something small lies in the way of a block's place
    assert held > 120
    assert left < 60
    assert again > 0.8 * new


@pytest.mark.parametrize("library", [None, object()])
def test_another_c_library(monkeypatch, library):
    monkeypatch.setattr(memory, "C", library)
    with kept_memory():
        pass


def test_an_error_goes_through_and_ends_it():
    with pytest.raises(ZeroDivisionError), kept_memory():
        raise ZeroDivisionError
    assert memory._depth == 0
