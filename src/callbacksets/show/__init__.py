"""Tables and pictures for notebooks and terminals."""
