"""The model zoo: converts published checkpoints, and publishes trained ones."""
