"""What is said of a series with several images at each position."""

from inference.assessment import Text
from node.stacks import ImageStack, Separation

MAX_STACKS_NAMED = 8
"""So many stacks are named; more are only counted."""


def inseparable(images: int) -> Text:
    """Say that images at the same positions cannot be told apart."""
    return Text(
        en=f"Several of the {images} images lie at the same positions, with different pixels, and "
        "no attribute tells them apart. Send each acquisition or reconstruction as a series of its "
        "own.",
        zh=f"{images} 幅图像中有多幅位于相同位置而像素不同，且没有可区分它们的属性。"
        "请将每次采集或重建分别作为独立序列发送。",
    )


def no_stack_taken(separation: Separation, rule: str) -> Text:
    """Say that the route's rule takes none of the stacks."""
    en, zh = _named(separation)
    return Text(
        en=f"The series holds {len(separation.stacks)} sets of images at the same positions "
        f"({en}), and the route's stack rule takes none of them: {rule}. Correct the rule.",
        zh=f"该序列在相同位置有 {len(separation.stacks)} 组图像（{zh}），"
        f"路由的 stack 规则未选中其中任何一组：{rule}。请修正该规则。",
    )


def stack_taken(separation: Separation, chosen: ImageStack, *, by_rule: bool) -> Text:
    """Say which of several stacks the volume is."""
    en, zh = _named(separation)
    said_by = Text(
        en="the route's rule chose it" if by_rule else "no rule chose",
        zh="由路由规则选定" if by_rule else "未设规则",
    )
    return Text(
        en=f"The series holds {len(separation.stacks)} sets of images at the same positions, told "
        f"apart by {separation.separator.en}: {en}. Only {chosen.label.en} was assessed "
        f"({said_by.en}).",
        zh=f"该序列在相同位置有 {len(separation.stacks)} 组图像，"
        f"以{separation.separator.zh}区分：{zh}。仅评估了{chosen.label.zh}（{said_by.zh}）。",
    )


def _named(separation: Separation) -> tuple[str, str]:
    stacks = separation.stacks[:MAX_STACKS_NAMED]
    more = len(separation.stacks) - len(stacks)
    en = "; ".join(stack.label.en for stack in stacks) + (f"; and {more} more" if more else "")
    zh = "；".join(stack.label.zh for stack in stacks) + (f"；另有 {more} 组" if more else "")
    return en, zh
