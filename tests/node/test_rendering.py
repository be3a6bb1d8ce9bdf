"""Pictures show what PS3.4 Section N.2 makes of the stored values."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian

from node.codecs import Codecs
from node.dicomweb.images import image_of
from node.dicomweb.rendering import Appearance, Window, rendered
from node.instances import read_instance
from tests.multi_frames import write_enhanced
from tests.node.held_files import head
from tests.slices import grid_affine, write_part10, write_slices

AS_IT_IS = Appearance()


@pytest.fixture(scope="module")
def codecs():
    with Codecs() as codecs:
        yield codecs


def shown(path, codecs, appearance=AS_IT_IS, number=1):
    content = rendered(image_of(read_instance(path)), number, appearance, "image/png", codecs)
    return np.asarray(Picture.open(io.BytesIO(content)))


def written(folder, **attributes):
    def change(header, _k):
        for keyword, value in attributes.items():
            setattr(header, keyword, value)

    stored = head().astype(np.int16)[np.newaxis] - 1500
    return write_slices(folder, stored, grid_affine(), change=change)[0]


def lut(entries, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.add_new("LUTData", "US", [int(one) for one in entries])
    return [item]


WINDOW = {"WindowCenter": "100", "WindowWidth": "600"}


@pytest.mark.parametrize(
    "attributes",
    [
        WINDOW,
        WINDOW | {"VOILUTFunction": "LINEAR_EXACT"},
        WINDOW | {"VOILUTFunction": "SIGMOID"},
        WINDOW | {"RescaleSlope": "0.5", "RescaleIntercept": "-20"},
        {"WindowCenter": ["100", "0"], "WindowWidth": ["600", "1"]},
        {"VOILUTSequence": lut(np.linspace(0, 4095, 500), -200, 12)},
        {"VOILUTSequence": lut(np.linspace(1023, 0, 256), 0, 10)},
    ],
    ids=" ".join,
)
def test_values_of_interest_are_those_of_pydicom(tmp_path, codecs, attributes):
    path = written(tmp_path, **attributes)
    dataset = dcmread(path)
    hounsfield = apply_modality_lut(dataset.pixel_array, dataset)
    if "VOILUTSequence" in dataset:
        expected = apply_voi_lut(hounsfield.astype(np.int32), dataset).astype(float)
        expected *= 255 / (2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    else:
        voi = apply_voi_lut(hounsfield, dataset)
        # pydicom's output range is that of all values that can be stored, rescaled.
        ends = np.array([-(2**15), 2**15 - 1]) * float(dataset.RescaleSlope)
        low, high = ends + float(dataset.RescaleIntercept)
        expected = (voi - low) / (high - low) * 255
    assert np.abs(shown(path, codecs) - expected).max() <= 1


def test_an_image_without_a_window_is_shown_from_its_lowest_to_its_highest_value(tmp_path, codecs):
    picture = shown(written(tmp_path), codecs)
    assert (picture.min(), picture.max()) == (0, 255)
    values = head().astype(float)
    expected = (values - values.min()) / np.ptp(values) * 255
    assert np.abs(picture - expected).max() <= 1


def test_a_window_that_cannot_be_is_passed_over(tmp_path, codecs):
    plain = shown(written(tmp_path / "plain"), codecs)
    for window in ({"WindowCenter": "1", "WindowWidth": "0"}, {"WindowCenter": "1"}):
        path = written(tmp_path / str(len(window)), **window)
        assert (shown(path, codecs) == plain).all()


def test_monochrome1_is_inverted(tmp_path, codecs):
    dark = shown(written(tmp_path / "1", **WINDOW, PhotometricInterpretation="MONOCHROME1"), codecs)
    assert (dark == 255 - shown(written(tmp_path / "2", **WINDOW), codecs)).all()


def test_a_clients_window_takes_the_place_of_the_images_own(tmp_path, codecs):
    other = Appearance(window=Window(100, 600))
    lut_of_its_own = {"VOILUTSequence": lut(np.linspace(255, 0, 256), 0, 8)}
    path = written(tmp_path / "own", **lut_of_its_own)
    expected = shown(written(tmp_path / "plain", **WINDOW), codecs)
    assert (shown(path, codecs, other) == expected).all()


def window_of_frame(groups, k):
    item = Dataset()
    item.WindowCenter, item.WindowWidth = str(100 * k), "600"
    groups.FrameVOILUTSequence = [item]


def test_each_frame_of_an_enhanced_image_has_its_own_window(tmp_path, codecs):
    stored = np.stack([head(), head()]).astype(np.int16) - 1500
    path = write_enhanced(
        tmp_path / "enhanced.dcm", stored, grid_affine(), frame_change=window_of_frame
    )
    for number in (1, 2):
        expected = Appearance(window=Window(100 * (number - 1), 600))
        assert (shown(path, codecs, number=number) == shown(path, codecs, expected, number)).all()
    assert (shown(path, codecs, number=1) != shown(path, codecs, number=2)).any()


def test_pixels_of_one_bit_are_black_and_white_wherever_a_frame_begins(tmp_path, codecs):
    rows, columns, frames = 5, 7, 4
    bits = np.random.default_rng(1).integers(0, 2, (frames, rows, columns), np.uint8)
    change = partial(_one_bit, bits)
    path = write_slices(tmp_path, np.zeros((1, rows, columns), np.int16), grid_affine())[0]
    dataset = dcmread(path)
    change(dataset)
    write_part10(path, dataset, ExplicitVRLittleEndian)
    assert (dcmread(path).pixel_array == bits).all()
    image = image_of(read_instance(path))
    for k in range(frames):
        assert (shown(path, codecs, number=k + 1) == bits[k] * 255).all()
        packed = np.frombuffer(image.uncompressed(k + 1, codecs), np.uint8)
        assert (np.unpackbits(packed, bitorder="little")[:35] == bits[k].ravel()).all()


def _one_bit(bits, header):
    header.NumberOfFrames, header.BitsAllocated, header.BitsStored = len(bits), 1, 1
    header.HighBit, header.PixelRepresentation = 0, 0
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    header.PixelData = packed + b"\0" * (len(packed) % 2)
    header["PixelData"].VR = "OB"
    del header.RescaleSlope, header.RescaleIntercept


@pytest.mark.parametrize("name", ["examples_palette.dcm", "OBXXXX1A_rle.dcm"])
def test_palettes_are_looked_up(codecs, name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not on this machine: install pydicom-data")
    dataset = dcmread(path)
    expected = apply_color_lut(dataset.pixel_array, dataset)
    picture = shown(Path(path), codecs)
    assert (picture == (expected >> 8 if expected.dtype == np.uint16 else expected)).all()
