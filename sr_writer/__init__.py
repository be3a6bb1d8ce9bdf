"""Assessments in, DICOM objects out; knows nothing of networks, and of inference only its types."""
