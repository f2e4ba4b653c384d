"""Clips: how they move, and noise that moves with them."""
