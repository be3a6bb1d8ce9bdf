"""How fast and how large a report is, as ratios against highdicom with a library of every image.

    python tests/bench/report.py [SLICES [ROUNDS]]

One finding on a tenth of the slices, with its segment. The rival is highdicom's own Measurement
Report with the same measurement groups and the same evidence, whose Image Library describes every
image of the series. Each way is run in turn, several times, and the median of the rounds' ratios
is printed: ratios, not seconds, are the claim. The time is that of writing and encoding.
"""

import statistics
import sys
import time
from pathlib import Path

from highdicom import sr
from pydicom.sr.codedict import codes

sys.path.insert(0, str(Path(__file__).parents[2]))

from sr_writer.document import reported
from sr_writer.encoding import UTF_8
from sr_writer.header import constructor_header
from sr_writer.measurement_groups import measurement_groups
from sr_writer.measurement_report import observation_context
from sr_writer.report import write_report, write_reports
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.series import MODEL, PROVENANCE, bytes_of, make_volume, present

MATRIX = 64
"""Of each image: reports hold no pixels, and the SEG is written before the clock starts."""
HEIGHT_MM = 280.0
"""Of the stack, so that the lesion of 28 mm is on a tenth of it."""


def by_highdicom(assessment, volume, segmentation):
    """The report with every image in its library, as highdicom writes it."""
    about = reported(assessment, volume.sources, volume)
    record = about.subject.record
    content = sr.MeasurementReport(
        observation_context=observation_context(record, PROVENANCE),
        procedure_reported=codes.cid100.CTUnspecifiedBodyRegion,
        imaging_measurements=measurement_groups(
            record.findings[0], about.subject, segmentation, PROVENANCE
        ),
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=about.evidence,
    )
    first, *others = about.evidence
    return sr.Comprehensive3DSR(
        evidence=[constructor_header(first), *others, segmentation],
        content=content,
        series_instance_uid="2.25.1",
        series_number=1,
        sop_instance_uid="2.25.2",
        instance_number=1,
        manufacturer=MODEL.manufacturer,
        specific_character_set=UTF_8,
    )


def by_overread(assessment, volume, segmentation):
    return write_report(assessment, volume.sources, volume, segmentation, PROVENANCE)


def in_all_forms(assessment, volume, segmentation):
    return write_reports(
        assessment, volume.sources, volume, segmentation, PROVENANCE, predecessors={}
    )


def encoded(made):
    return [bytes_of(each) for each in (made if isinstance(made, list) else [made])]


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    volume = make_volume(
        shape=(count, MATRIX, MATRIX),
        spacing=(HEIGHT_MM / count, 3.0, 3.0),
        name="Zhang^San",
        charset="ISO_IR 192",
    )
    assessment = present(volume)
    segmentation = write_segmentation(assessment, volume, PROVENANCE)
    ways = {"one form": by_overread, "all six forms": in_all_forms}
    ratios = {name: [] for name in ways}
    for turn in range(rounds + 1):
        seconds, sizes = {}, {}
        for way in (by_highdicom, *ways.values()):
            start = time.perf_counter()
            files = encoded(way(assessment, volume, segmentation))
            seconds[way] = time.perf_counter() - start
            sizes[way] = len(files[0])
        for name, way in ways.items():
            if turn:  # the first only warms up
                ratios[name].append(seconds[way] / seconds[by_highdicom])
    print(f"{count} slices, the finding on {len(assessment.record.findings[0].evidence.slices)}")
    for name, found in ratios.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{name}: {middle:.2f} of the time of a full library ({low:.2f} to {high:.2f})")
    print(f"size: {sizes[by_overread] / sizes[by_highdicom]:.3f} of that with a full library")
    print(f"{sizes[by_overread] // 1024} against {sizes[by_highdicom] // 1024} KiB")


if __name__ == "__main__":
    main()
