import pytest

from inference.bundle import BUILTIN, find_bundle
from inference.model import Model, load_model
from inference.runtime import RuntimeProviderError


def test_the_provider_in_use_is_reported(model: Model) -> None:
    assert model.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("providers", [(), ("NoSuchExecutionProvider", "CPUExecutionProvider")])
def test_a_provider_that_is_not_there_is_refused(providers: tuple[str, ...]) -> None:
    with pytest.raises(RuntimeProviderError, match="not available"):
        load_model(find_bundle(BUILTIN), providers=providers)
