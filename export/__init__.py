"""Export of the student to engines; reach it as ``shotstream_rt.export``."""
