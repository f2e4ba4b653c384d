"""The tab that restores photographs."""
