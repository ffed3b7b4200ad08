"""Multi-phase learning: several trainings, one after the other, and ensembles of their models."""
