"""How callbacks are named, given parameters and found."""
