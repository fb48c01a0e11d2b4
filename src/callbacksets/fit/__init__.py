"""One fit of CallbackSets: what to do at each moment of training, and what a checkpoint keeps."""
