"""One fit of CallbackSets: what is due at each moment, and what a checkpoint keeps of it."""
