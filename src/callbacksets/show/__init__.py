"""Tables and plots for notebooks and terminals."""
