from functools import cache

import pytest

LLAVA_MODELS = ("llava_mistral", "llava_qwen2", "llava")


@pytest.fixture(scope="session")
def export_llava(tmp_path_factory):
    """Exports the small checkpoint of a published model type, once."""
    pytest.importorskip("torch")
    from llava_exports import exported  # noqa: PLC0415 - needs torch

    return cache(lambda model: exported(tmp_path_factory.mktemp(model), model))


@pytest.fixture(scope="session", params=LLAVA_MODELS)
def llava_export(request, export_llava):
    return export_llava(request.param)
