"""Feed every surface its share of cases: `cd tests && python -m fuzz --cases 10000`.

Runs under a limit of address space and a time limit a case. Prints, for each surface, how many
cases gave a result, how many were refused, and the slowest; ends with status 1 if any did something
else, naming surface and seed of the case, with which `--surface NAME --case SEED` repeats it.
"""

from __future__ import annotations

import argparse
import faulthandler
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fuzz.surfaces import SURFACES
from statsnorm.errors import StatsnormError

SHARES = {
    "images": 0.45,
    "safetensors": 0.15,
    "designs": 0.15,
    "plans": 0.07,
    "lists": 0.07,
    "tables": 0.03,
    "directories": 0.045,
    "options": 0.035,
}
SECONDS = 60
"""A case that takes longer hangs."""

ROOM = 3 * 2**30
"""Bytes of address space beyond what the libraries take; a case that needs more blows up."""


class Hanging(BaseException):
    """A case took longer than :data:`SECONDS`."""


@contextmanager
def limited() -> Iterator[None]:
    def late(*_given: object) -> None:
        raise Hanging

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # code that never comes back to us
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def one(name: str, seed: int) -> str:
    """Run one case; return `result`, `refused`, or what went wrong."""
    rng = np.random.default_rng([seed, *name.encode()])
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            with limited():
                SURFACES[name](rng, Path(folder))
        except StatsnormError:
            return "refused"
        except (Exception, Hanging):  # noqa: BLE001 - whatever it is, it is a finding
            return traceback.format_exc()
    return "result"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--surface", choices=SURFACES)
    parser.add_argument("--case", type=int)
    given = parser.parse_args()
    for name in SURFACES:
        one(name, 10**9)  # imports, caches
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    if given.case is not None:
        print(one(given.surface, given.case))
        return 0
    failed = 0
    for name in [given.surface] if given.surface else SURFACES:
        cases = given.cases if given.surface else round(given.cases * SHARES[name])
        count, slowest, began = {"result": 0, "refused": 0}, 0.0, time.monotonic()
        for k in range(cases):
            start, seed = time.monotonic(), given.seed * 1_000_000 + k
            ended = one(name, seed)
            slowest = max(slowest, time.monotonic() - start)
            if ended not in count:
                failed += 1
                print(f"{name} --case {seed}: {ended}", flush=True)
            else:
                count[ended] += 1
        seconds = time.monotonic() - began
        wrong = cases - sum(count.values())
        print(
            f"{name}: {cases} cases, {count['result']} results, {count['refused']} refused, "
            f"{wrong} failed; slowest {slowest:.1f} s, {seconds:.0f} s in all",
            flush=True,
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
