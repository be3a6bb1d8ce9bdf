"""`overread validate`: results on disk through the gate, and past every validator there is."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from node.command_line import console, files_of
from node.validation import Validation, find, validate

USAGE = 2
"""Exit code for what was asked wrongly; 1 says that there are problems, 0 that there are none."""


def validate_files(paths: Sequence[Path], *, as_json: bool) -> NoReturn:
    """Say what the gate and each validator find, and end the command."""
    found = find([file for path in paths for file in files_of(path)])
    if not found.results:
        Console(stderr=True).print(
            "no result among what was given that the gate has rules for", style="red"
        )
        raise typer.Exit(USAGE)
    validation = validate(found)
    if as_json:
        sys.stdout.buffer.write(validation.as_json() + b"\n")
    else:
        _show(validation)
    raise typer.Exit(validation.has_problems)


def _show(validation: Validation) -> None:
    for judgement in validation.judgements:
        _line("[bold]gate[/]", judgement.problems, f"{len(judgement.results)} result(s)")
        for path in judgement.results:
            _detail(path)
        _detail(f"checked {judgement.checked}")
        for problem in judgement.problems:
            _detail(problem, style="red")
    for each in validation.outside:
        opinion = each.opinion
        _line(f"[bold]{opinion.validator}[/]", opinion.problems, each.file)
        for problem in opinion.problems:
            _detail(problem, style="red")
        for said, reason in opinion.known:
            _detail(f"known and no fault: {said}", style="dim")
            _detail(f"  for {reason}", style="dim")
    for remedy in (*validation.missing, *validation.failed):
        console.print(f"[yellow]not asked[/] {escape(remedy)}", soft_wrap=True)
    if validation.others:
        console.print(f"[yellow]skipped[/] {validation.others} file(s): no result, CT or MR image")


def _line(who: str, problems: tuple[str, ...], what: str) -> None:
    state = f"[red]{len(problems)} problem(s)[/]" if problems else "[green]no problem[/]"
    console.print(f"{who}: {state}: {escape(_shown(what))}", soft_wrap=True, highlight=False)


def _detail(text: str, *, style: str = "none") -> None:
    console.print(f"    {_shown(text)}", style=style, markup=False, soft_wrap=True, highlight=False)


def _shown(text: str) -> str:
    """Text without what UTF-8 cannot hold: names on old discs are in other character sets."""
    return os.fsencode(text).decode(errors="replace")
