"""What a setting may be: types with bounds, and the check of a value against them."""
