"""What was imported and collected stays to the end: the garbage collector need not look at it."""

import gc

gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()
