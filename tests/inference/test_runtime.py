from dataclasses import replace

import pytest

from inference.bundle import BUILTIN, find_bundle
from inference.model import Model, load_model
from inference.providers import SessionSettings
from inference.runtime import RuntimeProviderError

ONE_THREAD = SessionSettings(threads=1)


def test_the_provider_in_use_is_reported(model: Model) -> None:
    assert model.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_refused(provider) -> None:
    with pytest.raises(RuntimeProviderError, match=r"cannot be used: .*Do this: pip"):
        load_model(find_bundle(BUILTIN), replace(ONE_THREAD, provider=provider))
