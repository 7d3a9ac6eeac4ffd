"""What an extraction left behind, for the caller and for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from statsnorm.errors import StatsnormError
from statsnorm.extraction.estimate import Estimate
from statsnorm.extraction.shard import Job
from statsnorm.images.design import Design
from statsnorm.rundir import discard, info, skipped_lines
from statsnorm.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """What an extraction left behind, or with `dry_run` what it would."""

    path: Path
    images: int
    cells: int  # input cells an image
    variants: int  # networks x treatments x indices x seeds
    rows: int
    bytes: int
    seconds: float
    skipped: tuple[str, ...] = ()  # `image (stage): reason`, one an image left out
    left_out: tuple[str, ...] = ()  # `cell: reason`, trained cells without a generator
    changed: tuple[str, ...] = ()  # `image: what`, files that are others than were measured
    note: str = ""  # what no analysis can do with these tables, said before the time is spent
    missing: int = 0  # files that other processes still have to write
    dry_run: bool = False

    def summary(self) -> str:
        """Return one to a few lines for the terminal."""
        would = "would be " if self.dry_run else ""
        lines = [
            f"{self.path}: {counted(self.images, 'images')} x {counted(self.cells, 'inputs')} x "
            f"{counted(self.variants, 'networks')}, "
            f"{would}{counted(self.rows, 'rows')}, {self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s"
        ]
        if self.missing:
            lines.append(f"not finished: {self.missing} files are missing")
        lines += [f"note: {self.note}"] if self.note else []
        lines += [f"left out: {one}" for one in (*self.skipped, *self.left_out)]
        lines += [f"changed: {one}; its rows are of the old file" for one in self.changed]
        return "\n".join(lines)


def shortfall(design: Design | None) -> str:
    """Return what a crossed design lacks for the analyses of crossed designs, or ""."""
    return design.shortfall() if design is not None else ""


def estimated(out: Path, found: Estimate, design: Design | None) -> Extraction:
    """Return what a dry run says."""
    return Extraction(
        path=out,
        images=found.images,
        cells=found.cells,
        variants=found.variants,
        rows=found.rows,
        bytes=found.bytes,
        seconds=found.seconds,
        note=shortfall(design),
        dry_run=True,
    )


def made(
    job: Job, seconds: float, left_out: tuple[str, ...] = (), changed: tuple[str, ...] = ()
) -> Extraction:
    """Return what a run holds now; if no image could be used, remove it and say so."""
    run = job.run
    skipped = skipped_lines(run)
    images = len(job.feed.inputs.refs) - len(skipped)
    found = info(run.path)
    if found.finished and not found.images:
        discard(run)
        raise StatsnormError(f"none of {len(skipped)} images could be used; {skipped[0]}")
    return Extraction(
        path=run.path,
        images=images,
        cells=len(job.feed.inputs.cells),
        variants=len(job.variants.all),
        rows=found.rows.get("moments", 0),
        bytes=found.bytes,
        seconds=seconds,
        skipped=skipped,
        left_out=left_out,
        changed=changed,
        note=shortfall(job.feed.inputs.design),
        missing=len(found.missing),
    )
