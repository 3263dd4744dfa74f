"""Tables of variants, each trained at equal compute and measured alike."""
