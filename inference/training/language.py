"""What the built-in model learns to say: questions, answers and report sentences, in two languages.

Every word follows from the simulation's truth; nothing else is ever said.
"""

from dataclasses import dataclass

from inference.assessment import Laterality, Text
from inference.phantom import Lesion

QUESTION = "Is there an intracranial haemorrhage?"
PROMPTS = Text(en="Describe the head CT in English.", zh="请用中文描述头颅CT。")
YES, NO = "yes", "no"

SMALL_MM, LARGE_MM = 15.0, 30.0
"""Equivalent-sphere diameters that part small from medium-sized from large."""

REGIONS = {
    "frontal": Text(en="frontal", zh="额叶"),
    "parietal": Text(en="parietal", zh="顶叶"),
    "temporal": Text(en="temporal", zh="颞叶"),
    "occipital": Text(en="occipital", zh="枕叶"),
    "deep": Text(en="deep", zh="深部"),
    "cerebellar": Text(en="cerebellar", zh="小脑"),
}
_SIZES = (
    Text(en="small", zh="小"),
    Text(en="medium-sized", zh="中等大小"),
    Text(en="large", zh="大"),
)


@dataclass(frozen=True)
class Sample:
    """One text task: what is asked, and the answer."""

    prompt: str
    answer: str


def report(lesion: Lesion | None, *, mirrored: bool = False) -> Text:
    """The report sentence for a head; `mirrored` heads have left and right exchanged."""
    if lesion is None:
        return Text(en="No hyperdense intracranial haemorrhage is seen.", zh="未见颅内高密度出血。")
    size = _SIZES[int(lesion.diameter_mm > SMALL_MM) + int(lesion.diameter_mm > LARGE_MM)]
    left = (lesion.side is Laterality.LEFT) != mirrored
    if lesion.kind == "subdural":
        side = Text(en="left", zh="左侧") if left else Text(en="right", zh="右侧")
        return Text(
            en=f"There is a {size.en} crescent-shaped hyperdense subdural haemorrhage "
            f"on the {side.en}.",
            zh=f"{side.zh}硬膜下可见{size.zh}的新月形高密度出血。",
        )
    region = REGIONS[lesion.region]
    if lesion.side is None:
        return Text(
            en=f"There is a {size.en} hyperdense haemorrhage near the midline "
            f"in the {region.en} region.",
            zh=f"中线附近{region.zh}区域可见{size.zh}的高密度出血灶。",
        )
    side = Text(en="left", zh="左侧") if left else Text(en="right", zh="右侧")
    return Text(
        en=f"There is a {size.en} hyperdense haemorrhage in the {side.en} {region.en} region.",
        zh=f"{side.zh}{region.zh}区域可见{size.zh}的高密度出血灶。",
    )


def samples(lesion: Lesion | None, *, mirrored: bool = False) -> tuple[Sample, ...]:
    """The text tasks of one head: the yes/no question and a report in each language."""
    text = report(lesion, mirrored=mirrored)
    return (
        Sample(QUESTION, NO if lesion is None else YES),
        Sample(PROMPTS.en, text.en),
        Sample(PROMPTS.zh, text.zh),
    )


def corpus() -> list[str]:
    """Every sentence the model can be asked or can say, to learn the vocabulary from."""
    sentences = [QUESTION, PROMPTS.en, PROMPTS.zh, YES, NO, report(None).en, report(None).zh]
    for region in REGIONS:
        for side in (Laterality.LEFT, Laterality.RIGHT, None):
            for diameter in (10.0, 20.0, 40.0):
                for kind in ("intraparenchymal", "subdural"):
                    text = report(
                        Lesion(
                            kind=kind,
                            centre=(0, 0, 0),
                            volume_ml=1,
                            diameter_mm=diameter,
                            side=side,
                            region=region,  # type: ignore[arg-type]
                            hu=70,
                        )
                    )
                    sentences += [text.en, text.zh]
    return sentences
