"""Which outside validator finds which fault that the gate stops.

    python -m tests.bench.faults

Every fault of `tests/sr_writer/faults.py` goes as files past the gate, dciodvfy, dcentvfy, DCMTK's
dsrdump and dcmpschk, PixelMed, and the readers of highdicom and pydicom. A fault counts as found
where one says anything, or fails, that it does not of the good object. The table goes into
docs/conformance-gate.md. PixelMed takes seconds a document, so this takes some ten minutes.
"""

import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom as hd
from pydicom import config, dcmread

from node.outside_validators import DCENTVFY, DCIODVFY, DCMPSCHK, DSRDUMP, PIXELMED
from sr_writer.conformance import check_objects
from sr_writer.encoding import UTF_8
from sr_writer.kinds import Kind
from tests.sr_writer.faults import FAULTS, VOLUME, Fault, Made, everything, judged, spoiled
from tests.sr_writer.series import as_spooled, make_volume

PAGE = Path(__file__).parents[2] / "docs" / "conformance-gate.md"
BEGIN, END = "<!-- faults: python -m tests.bench.faults -->\n", "<!-- end of faults -->\n"
ASSESSMENT = everything(VOLUME)
READERS = {
    Kind.SEGMENTATION: hd.seg.segread,
    Kind.REPORT: hd.sr.srread,
    Kind.KEY_OBJECTS: hd.sr.srread,
    Kind.PARAMETRIC_MAP: hd.imread,
    Kind.SECONDARY_CAPTURE: hd.imread,
}
Said = set[str]
Row = tuple[str, str, list[bool]]


def gate(made: Made, _kind: Kind, _path: Path, _beside: list[Path]) -> Said:
    """What our gate says."""
    model = ASSESSMENT.record.model
    return set(
        check_objects(made.datasets, VOLUME.sources, VOLUME, model=model, assessment=ASSESSMENT)
    )


def outside(validator) -> Callable[[Made, Kind, Path, list[Path]], Said]:
    """What a validator says of the file, or of all files; also what is no fault in the good one."""

    def ask(made: Made, kind: Kind, path: Path, beside: list[Path]) -> Said:
        if not validator.takes(made.first(kind)):
            return set()
        paths = [*beside, path] if validator.together else [path]
        try:
            opinion = validator.opinion(paths)
        except OSError:
            return {"it breaks off"}
        return {*opinion.problems, *(line for line, _ in opinion.known)}

    return ask


def highdicom(_made: Made, kind: Kind, path: Path, _beside: list[Path]) -> Said:
    """Whether highdicom's reader refuses the object."""
    if kind not in READERS:
        return set()
    return _raised(lambda: READERS[kind](path))


def pydicom(_made: Made, _kind: Kind, path: Path, _beside: list[Path]) -> Said:
    """Whether pydicom refuses the object when it validates what it reads."""

    def read() -> None:
        before = config.settings.reading_validation_mode
        config.settings.reading_validation_mode = config.RAISE
        try:
            for _ in dcmread(path).iterall():
                pass
        finally:
            config.settings.reading_validation_mode = before

    return _raised(read)


def _raised(read: Callable[[], object]) -> Said:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except Exception as error:  # noqa: BLE001 - whatever a reader raises
        return {type(error).__name__}
    return set()


JUDGES = {
    "gate": gate,
    "dciodvfy": outside(DCIODVFY),
    "dcentvfy": outside(DCENTVFY),
    "dsrdump": outside(DSRDUMP),
    "dcmpschk": outside(DCMPSCHK),
    "PixelMed": outside(PIXELMED),
    "highdicom": highdicom,
    "pydicom": pydicom,
}


def written(made: Made, kind: Kind, folder: Path, name: str) -> tuple[Path, list[Path]]:
    """The file of the faulty object, and those of the others and of the source."""
    beside = sorted(folder.glob("source-*.dcm"))
    path = folder / f"{name}.dcm"
    for number, result in enumerate(made.results):
        is_faulty = result.dataset is made.first(kind)
        target = path if is_faulty else folder / f"{name}-{number}.dcm"
        result.dataset.save_as(target, enforce_file_format=False)
        if not is_faulty:
            beside.append(target)
    return path, beside


def said(made: Made, kind: Kind, folder: Path, name: str) -> dict[str, Said]:
    """What each judge says, without what differs from file to file."""
    path, beside = written(made, kind, folder, name)
    return {
        judge: {
            re.sub(rf"{folder}/\S+?\.dcm", "FILE", each) for each in ask(made, kind, path, beside)
        }
        for judge, ask in JUDGES.items()
    }


def write_sources(folder: Path) -> None:
    """The source in UTF-8, for dcentvfy compares bytes."""
    for number, header in enumerate(make_volume(charset=UTF_8).sources):
        as_spooled(header).save_as(folder / f"source-{number}.dcm", enforce_file_format=True)


def rows(faults: Sequence[Fault] = FAULTS) -> list[Row]:
    """Each fault, the kind of object that has it, and who finds it."""
    found: list[Row] = []
    usual: dict[Kind, dict[str, Said]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sources(folder)
        for number, fault in enumerate(faults):
            if fault.kind not in usual:
                usual[fault.kind] = said(Made(judged(fault.kind)), fault.kind, folder, "good")
            now = said(spoiled(fault), fault.kind, folder, f"fault-{number}")
            finds = [bool(now[judge] - usual[fault.kind][judge]) for judge in JUDGES]
            found.append((fault.name, str(fault.kind), finds))
            named = [judge for judge, finds_it in zip(JUDGES, finds, strict=True) if finds_it]
            print(f"{number + 1:3} {fault.name}: {', '.join(named)}", flush=True)
    return found


def table(found: Sequence[Row]) -> str:
    """The rows in Markdown, the totals first."""
    totals = [sum(finds[column] for _, _, finds in found) for column in range(len(JUDGES))]
    lines = [
        f"| fault | in | {' | '.join(JUDGES)} |",
        f"|---|---|{':-:|' * len(JUDGES)}",
        f"| **{len(found)} faults** | | {' | '.join(f'**{total}**' for total in totals)} |",
    ]
    for name, kind, finds in found:
        marks = " | ".join("x" if each else "" for each in finds)
        lines.append(f"| {name} | {kind.replace('_', ' ')} | {marks} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table into the page."""
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    shown = table(rows())
    PAGE.write_text(head + BEGIN + shown + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
