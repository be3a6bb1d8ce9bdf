"""`overread volume`: what becomes of series on disk, and the volume itself as NIfTI or picture."""

import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import typer
from pydicom.uid import MediaStorageDirectoryStorage
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from inference.volume import Volume
from node.assembly import assemble
from node.assembly_settings import AssemblySettings
from node.command_line import DEFAULT_CONFIG, console, fail, files_of
from node.instances import UnreadableInstanceError, read_instance, text_of
from node.nifti import SUFFIXES, nifti_image, write_nifti
from node.rules import STACK_VARIABLES, check_expression
from node.settings import SettingsError, load_settings
from node.three_planes import three_planes, window_of
from node.volume_report import Report, SeriesReport, lines_of, series_report

USAGE = 2
"""Exit code for what was asked wrongly; 1 says that there is no volume, 0 that there is one."""


@dataclass(frozen=True)
class _Files:
    """What was found on disk: the files of each series, and what is of none.

    `unreadable` are DICOM files that cannot be parsed: they may be slices of one of the series.
    """

    series: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    not_dicom: list[Path] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)


def assemble_files(
    paths: Sequence[Path],
    *,
    nifti: Path | None,
    picture: Path | None,
    at: str | None,
    series: str | None,
    stack: str,
    config: Path | None,
    as_json: bool,
) -> NoReturn:
    """Say what becomes of each series, write what was asked for, and end the command."""
    warnings.filterwarnings("ignore", module="pydicom")  # odd values are the verdict's business
    point, rules = _point(at), _rules(stack, config)
    if point and not picture:
        _usage("--at says where the planes of --picture are; give that too")
    for out, suffixes in ((nifti, SUFFIXES), (picture, (".png",))):
        if out and not out.name.endswith(suffixes):
            _usage(f"{out}: the name must end in {' or '.join(suffixes)}")
    found = _files_by_series(paths)
    if series is not None and series not in found.series:
        _usage(f"no file is of series {series}; there are: {', '.join(found.series) or 'none'}")
    wanted = sorted(found.series) if series is None else [series]
    chosen = {uid: found.series[uid] for uid in wanted}
    reports, made = _reports(chosen, stack, rules.max_gap, keep=bool(nifti or picture))
    accepted = [report for report in reports if report.volume is not None]
    if (nifti or picture) and len(accepted) > 1:
        names = "\n".join(f"  {one.series_instance_uid}  {one.summary}" for one in accepted)
        _usage(f"several series became volumes; choose one with --series:\n{names}")
    if made is not None:
        _write(made, nifti, picture, point)
    report = Report(
        overread=version("overread"),
        series=tuple(reports),
        chosen=accepted[0].series_instance_uid if len(accepted) == 1 else None,
        nifti=_shown(nifti) if nifti and made else None,
        picture=_shown(picture) if picture and made else None,
        not_dicom=len(found.not_dicom),
        dicomdir=len(found.directories),
        unreadable=tuple(map(_shown, found.unreadable)),
    )
    if as_json:
        sys.stdout.buffer.write(report.as_json() + b"\n")
    else:
        _show(report)
    if not reports:
        fail("no DICOM instance among what was given")
    raise typer.Exit(not accepted)


def _point(at: str | None) -> tuple[float, float, float] | None:
    if at is None:
        return None
    try:
        x, y, z = (float(part) for part in at.split(","))
    except ValueError:
        _usage(f"--at {at}: give three numbers with commas between them, such as --at=-12.5,30,80")
    return x, y, z


def _rules(stack: str, config: Path | None) -> AssemblySettings:
    """The node's thresholds, or the usual ones where it has no configuration."""
    try:
        if stack:
            check_expression(stack, STACK_VARIABLES)
        if config is None and not DEFAULT_CONFIG.is_file():
            return AssemblySettings()
        return load_settings(config or DEFAULT_CONFIG).assembly
    except SettingsError as error:
        _usage(str(error))
    except ValueError as error:
        _usage(f"--stack {stack}: {error}")


def _files_by_series(paths: Sequence[Path]) -> _Files:
    """Sort files by Series Instance UID; a file that was named must be DICOM."""
    found = _Files()
    for path in paths:
        for file in files_of(path):
            try:
                header = read_instance(file).header
            except UnreadableInstanceError as error:
                if file == path:
                    _usage(error.reason.en)
                (found.unreadable if _says_dicom(file) else found.not_dicom).append(file)
            except OSError as error:
                _usage(f"{file}: {error.strerror or error}")
            else:
                sop_class, series = (
                    text_of(header, keyword) for keyword in ("SOPClassUID", "SeriesInstanceUID")
                )
                if sop_class == MediaStorageDirectoryStorage:
                    found.directories.append(file)
                elif sop_class or series:
                    found.series[series].append(file)
                else:
                    found.unreadable.append(file)
    return found


def _says_dicom(path: Path) -> bool:
    """Tell whether there is the prefix of a Part 10 file behind its preamble (PS3.10 7.1)."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _reports(
    chosen: dict[str, list[Path]], stack: str, max_gap: float, *, keep: bool
) -> tuple[list[SeriesReport], Volume | None]:
    """Assemble series by series; with `keep`, return the first volume too.

    Only one is kept: those of a whole study may not have room in memory.
    """
    reports: list[SeriesReport] = []
    kept = None
    for uid, files in chosen.items():
        start = time.perf_counter()
        try:
            assembled = assemble(files, stack=stack, max_gap=max_gap)
        except ValueError as error:
            _usage(f"--stack {stack}: {error}")
        except OSError as error:
            _usage(f"{error.filename}: {error.strerror or error}")
        seconds = time.perf_counter() - start
        reports.append(series_report(uid, len(files), assembled, seconds))
        if keep and kept is None:
            kept = assembled.volume
    return reports, kept


def _write(
    made: Volume,
    nifti: Path | None,
    picture: Path | None,
    point: tuple[float, float, float] | None,
) -> None:
    try:
        image = nifti_image(made)
        if picture is not None:
            three_planes(image, window_of(made), point).save(picture)
        if nifti is not None:
            write_nifti(image, nifti)
    except ValueError as error:
        _usage(str(error))
    except OSError as error:
        _usage(f"{error.filename or nifti or picture}: {error.strerror or error}")


def _show(report: Report) -> None:
    """Print a panel for each series; those of refused ones go to standard error."""
    errors = Console(stderr=True)
    for series in report.series:
        verdict = series.verdict
        state = "[green]accepted[/]" if verdict.accepted else "[red]refused[/]"
        uid = series.series_instance_uid or "no Series Instance UID"
        rows = Table.grid(padding=(0, 2))
        rows.add_row("[dim]verdict[/]", f"{state}: {verdict.geometry}")
        for name, text in lines_of(series):
            rows.add_row(f"[dim]{name}[/]", escape(text))
        (console if verdict.accepted else errors).print(
            Panel(rows, title=escape(uid), title_align="left"),
            highlight=False,
        )
    for count, what in (
        (report.not_dicom, "not DICOM"),
        (report.dicomdir, "DICOMDIR"),
        (len(report.unreadable), "DICOM but cannot be read; a series may lack them"),
    ):
        if count:
            errors.print(f"[yellow]skipped[/] {count} file(s): {what}")
    for written in (report.nifti, report.picture):
        if written:
            console.print(f"written {escape(written)}", soft_wrap=True, highlight=False)


def _shown(text: Path | str) -> str:
    """Text without what UTF-8 cannot hold: names on old discs are in other character sets."""
    return os.fsencode(text).decode(errors="replace")


def _usage(text: str) -> NoReturn:
    """End the command with the exit code for what was asked wrongly."""
    shown = _shown(text)
    Console(stderr=True).print(shown, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(USAGE)
