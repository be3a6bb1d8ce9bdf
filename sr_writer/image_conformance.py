"""What the gate asks of an image's pixels: as many as its header says, of the size it says."""

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.uid import UID

SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3}
KINDS = {"PixelData": None, "FloatPixelData": 32, "DoubleFloatPixelData": 64}


def check_pixels(made: Dataset) -> Iterator[str]:
    """Yield where Image Pixel attributes contradict each other or the length of native pixels."""
    allocated = int(made.get("BitsAllocated") or 0)
    if "PixelData" in made and not (
        int(made.get("HighBit", -1)) + 1 == int(made.get("BitsStored", 0)) <= allocated
    ):
        yield "HighBit, BitsStored and BitsAllocated contradict each other; write them again"
    samples = SAMPLES.get(made.get("PhotometricInterpretation", ""))
    if samples != made.get("SamplesPerPixel"):
        yield "SamplesPerPixel is not that of PhotometricInterpretation; write both again"
    if UID(made.file_meta.TransferSyntaxUID).is_compressed and "PixelData" in made:
        return  # in fragments
    for keyword, bits in KINDS.items():
        if keyword not in made:
            continue
        if bits is not None and allocated != bits:
            yield f"BitsAllocated is {allocated}, but {keyword} has {bits}; write it again"
        pixels = int(made.Rows) * int(made.Columns) * int(made.get("NumberOfFrames") or 1)
        length = -(-pixels * int(samples or 1) * allocated // 8)
        if len(made[keyword].value) != length + length % 2:
            yield f"{keyword} has not one value for each pixel of each frame; encode it again"
