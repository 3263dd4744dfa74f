"""What every training shares: processes, optimiser, weights on disk, settings, random numbers."""
