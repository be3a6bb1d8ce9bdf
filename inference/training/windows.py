"""Hounsfield windows of the built-in model's input channels."""

WINDOWS_HU = ((-20.0, 120.0), (-200.0, 1000.0))
"""Brain with blood, and everything up to bone."""
