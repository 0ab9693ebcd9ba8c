"""Secrets through their life: shown, edited, rotated, and who can read them."""
