"""What any callback has to pass. Every check is a function; its docstring says what is so when it passes."""
