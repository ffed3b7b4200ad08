"""Experiment trackers as event writers, `SSOD.WRITERS ("wandb", "mlflow")`: docs/trackers.md."""
