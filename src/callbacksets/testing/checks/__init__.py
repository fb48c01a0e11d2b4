"""The checks. Each is a function; its docstring says what is true of a callback that passes it."""
