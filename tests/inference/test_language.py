import pytest

from inference.assessment import Laterality
from inference.phantom import Lesion
from inference.training.language import corpus, report, samples


def lesion(**changes: object) -> Lesion:
    truth = {
        "kind": "intraparenchymal",
        "centre": (0.0, 0.0, 0.0),
        "volume_ml": 10.0,
        "diameter_mm": 27.0,
        "side": Laterality.LEFT,
        "region": "frontal",
        "hu": 70.0,
    }
    return Lesion(**(truth | changes))  # type: ignore[arg-type]


def test_a_report_says_what_is_true_in_both_languages() -> None:
    text = report(lesion())
    assert text.en == "There is a medium-sized hyperdense haemorrhage in the left frontal region."
    assert text.zh == "左侧额叶区域可见中等大小的高密度出血灶。"


def test_a_mirrored_head_has_its_sides_exchanged() -> None:
    text = report(lesion(), mirrored=True)
    assert "right" in text.en
    assert "右侧" in text.zh
    assert report(lesion(side=None), mirrored=True) == report(lesion(side=None))


@pytest.mark.parametrize("truth", [None, lesion(), lesion(kind="subdural"), lesion(side=None)])
def test_every_answer_is_in_the_corpus_that_makes_the_vocabulary(truth: Lesion | None) -> None:
    known = set(corpus())
    for sample in samples(truth):
        assert sample.prompt in known
        assert sample.answer in known
