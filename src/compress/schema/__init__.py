"""The schema of settings: types with bounds, and the check of values against them."""
