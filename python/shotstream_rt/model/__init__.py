"""Networks and their files: student, codecs, text encoders, checkpoints."""
