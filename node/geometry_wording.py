"""What is said about a series' geometry, to the technologist and in the report."""

from collections.abc import Sequence

from inference.assessment import Text
from node.planes import Floats
from node.slice_steps import Gap

MAX_GAPS_NAMED = 3
"""So many gaps are located; more are only counted."""


def skewed_axes() -> Text:
    """Say that rows and columns are not at a right angle."""
    return Text(
        en="The image rows and columns are not at a right angle according to Image Orientation "
        "(Patient), so positions cannot be trusted. Export the series again from the scanner.",
        zh="根据图像方位(患者)，图像的行与列不成直角，位置不可信。请从扫描设备重新导出该序列。",
    )


def one_slice() -> Text:
    """Say that there is one image only."""
    return Text(
        en="The series has one slice only; a volume needs several parallel ones. "
        "If slices are missing, send the whole series again.",
        zh="该序列只有一层图像，构成容积需要多层平行图像。如有层面缺失，请重新发送完整序列。",
    )


def shifted(largest: float) -> Text:
    """Say that images lie beside each other without being a tilted stack."""
    return Text(
        en=f"Slices are shifted sideways against each other by up to {largest:.1f} mm, as when "
        "two acquisitions or fields of view are mixed. "
        "Send each acquisition as a series of its own.",
        zh=f"各层面之间存在最大 {largest:.1f} mm 的侧向偏移，如同混合了两次采集或不同视野。"
        "请将每次采集分别作为独立序列发送。",
    )


def gapped(along: Floats, gaps: Sequence[Gap]) -> Text:
    """Say which slices are missing, where these are too many to be interpolated."""
    missing = sum(gap.missing for gap in gaps)
    en, zh = _places(along, gaps)
    return Text(
        en=f"About {missing} slice(s) missing: between {en} along the slice direction. That is "
        "too wide to be filled. Send the whole series again.",
        zh=f"约缺失 {missing} 层：沿层面方向 {zh} 之间。缺口过大，无法填补。请重新发送完整序列。",
    )


def gaps_filled(along: Floats, gaps: Sequence[Gap]) -> Text:
    """Say where slices were missing and what stands in for them."""
    missing = sum(gap.missing for gap in gaps)
    en, zh = _places(along, gaps)
    return Text(
        en=f"About {missing} slice(s) missing: between {en} along the slice direction. They were "
        "interpolated between their neighbours; what lies there was not seen.",
        zh=f"约缺失 {missing} 层：沿层面方向 {zh} 之间。缺失部分由相邻层面插值得到，"
        "该处的内容未被观察到。",
    )


def steps_evened(steps: Floats, spacing: float) -> Text:
    """Say that slices were interpolated because the steps vary."""
    return Text(
        en=f"The distance between slices varies from {steps.min():.2f} to {steps.max():.2f} mm; "
        f"the volume was interpolated to one of {spacing:.2f} mm.",
        zh=f"层间距在 {steps.min():.2f} 至 {steps.max():.2f} mm 之间变化；"
        f"容积已插值为 {spacing:.2f} mm 的均匀层间距。",
    )


def tilt_undone(angle: float) -> Text:
    """Say that slices were shifted within their planes because they are sheared."""
    return Text(
        en=f"The slices are sheared by a gantry tilt of {angle:.1f} degrees; they were shifted "
        "within their planes to an upright volume, with interpolation between pixels.",
        zh=f"扫描架倾斜 {angle:.1f} 度，层面呈剪切排列；"
        "已在层面内平移并作像素间插值，恢复为直立容积。",
    )


def too_large(shape: tuple[int, int, int], limit: int) -> Text:
    """Say that the volume would have more voxels than are read."""
    voxels = float(shape[0]) * shape[1] * shape[2]
    return Text(
        en=f"The series makes {voxels:.2e} voxels, more than the {limit:.2e} that are read. "
        "Send a reconstruction with fewer or smaller slices.",
        zh=f"该序列构成 {voxels:.2e} 个体素，超过可读取的上限 {limit:.2e}。"
        "请发送层数更少或矩阵更小的重建序列。",
    )


def too_spread() -> Text:
    """Say that the images lie too far apart for their size."""
    return Text(
        en="The images lie too far apart for their size, as when Image Position (Patient) or Pixel "
        "Spacing is wrong. Export the series again from the scanner.",
        zh="相对于图像大小，各图像之间相距过远，可能是图像位置(患者)或像素间距有误。"
        "请从扫描设备重新导出该序列。",
    )


def _places(along: Floats, gaps: Sequence[Gap]) -> tuple[str, str]:
    ends = [(along[gap.index], along[gap.index + 1]) for gap in gaps[:MAX_GAPS_NAMED]]
    first = along[0]
    places = [f"{start - first:.1f} – {end - first:.1f} mm" for start, end in ends]
    more = len(gaps) - len(places)
    en_more = f" and {more} more" if more else ""
    zh_more = f" 等另外 {more} 处" if more else ""
    return ", ".join(places) + en_more, "、".join(places) + zh_more
