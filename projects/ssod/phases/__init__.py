"""Multi-phase learning: several trainings one after the other, and what their models can do
together.
"""
