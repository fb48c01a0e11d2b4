"""`python -m callbacksets` prints the dictionary of callbacks."""

from callbacksets.describe.dictionary import torch_callbacks

print(torch_callbacks)
