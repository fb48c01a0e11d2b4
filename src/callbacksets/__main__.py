"""`python -m callbacksets` prints the dictionary of callbacks."""

from callbacksets.dictionary import torch_callbacks

print(torch_callbacks)
