"""The tab that restores a clip."""
