"""Models in, assessments out: the lowest layer; knows nothing of networks or of DICOM out."""

import os

# ONNX Runtime would record usage and send it to its maker; it reads this once, when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
