#!/usr/bin/env bash
# Installs each file of a distribution into an empty environment and trains there; then lets the sdist's own
# tests run, those that read files beside the sources.
#   try_dist.sh <python> <wheel or sdist>...
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
python=$(realpath --no-symlinks "$1")
shift
files=$(realpath "$@")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" # not where the sources are

for file in $files; do
    env="$folder/$(basename "$file").env"
    "$python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" "$file"
    "$env/bin/python" -m pip check
    "$env/bin/python" -m callbacksets
    "$env/bin/python" - <<'PYTHON'
import lightning as L
import torch

import callbacksets
from callbacksets import CallbackSetAdapter, SupervisedModule, t_clbk

assert set(callbacksets.__all__) <= set(dir(callbacksets))
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8, 2), torch.ones(8, 1)))
module = SupervisedModule(torch.nn.Linear(2, 1), torch.nn.MSELoss(), lambda p: torch.optim.SGD(p, lr=0.01))
adapter = CallbackSetAdapter(["history", t_clbk("early_stopping", patience=1)])
trainer = L.Trainer(max_epochs=2, callbacks=[adapter], logger=False, enable_checkpointing=False, enable_progress_bar=False)
trainer.fit(module, loader, loader)
assert adapter.states["history"]["epoch"] == [1, 2]
PYTHON
    echo "$(basename "$file") installs and trains."
done

for file in $files; do
    if [[ $file == *.tar.gz ]]; then
        tar -xzf "$file"
        cd "$folder/$(basename "$file" .tar.gz)"
        export PYTHONPATH=src
        "$python" -m pytest -q --collect-only tests >/dev/null
        "$python" -m pytest -q -n 2 -m "not slow" tests/test_{cli,docs,golden_runs,golden_traces,notebooks,readme}.py
    fi
done
