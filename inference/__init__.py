"""Models in, assessments out: the lowest layer; knows nothing of networks or of DICOM out."""
