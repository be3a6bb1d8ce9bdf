"""DICOMweb (PS3.18): studies in by STOW-RS, studies and results out to those who hold a token."""
