#!/usr/bin/env bash
# Negative controls of the Python package: takes one check, wait or sum out of it at a time, and requires that python/tests
# notice. A mutant that survives is a test that can't fail. After `make python`; OFL_PYTHON has torch, transformers and pytest.
#   python/tests/mutants.sh [NAME...]      all, or those named
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
build=${OFL_BUILD_DIR:-$root/build}
python=${OFL_PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# name | file | what is looked for (fixed text) | what takes its place | file of tests, and which of them
list='
saved-by-address|_model.py|                return _Saved(self, h, t)|                return t|test_train.py|bits_are_those_of_memory and llama
backward-leases-nothing|_model.py|        unit.lease()\n        self.at = unit|        self.at = unit|test_train.py|bits_are_those_of_memory and llama
exception-leaves-leases|_model.py|                unit.count = 1\n                unit.release()|                unit.count = 0|test_misuse.py|exception_inside_forward
replaced-unseen|_model.py|            if m._parameters.get(key) is not p:|            if False:|test_misuse.py|replaced
largest-block-unchecked|_model.py|        if needs and needs[name] > budget:|        if False:|test_misuse.py|budget_too_small
gradient-not-added|_parameters.py|                total.add_(grad)|                total.copy_(grad)|test_train.py|accumulation or several_backward
gradient-counted-twice|_parameters.py|            self.parameter.grad = None|            pass|test_train.py|several_backward
gradient-looked-at|_parameters.py|        if func == _GRAD.__get__ and args[0].offload_held.has_gradient:|        if False:|test_misuse.py|not_in_grad
gradient-not-dropped|_model.py|        held.has_gradient = False|        pass|test_misuse.py|dropped
away-has-values|_parameters.py|        self.parameter.__class__ = Away|        pass|test_misuse.py|touched
rates-read-once|_optimizer.py|                if rates != held.rates:|                if held.rates is None:|test_groups.py|bits_are_those_of_memory or close or rate
rates-of-the-first|_optimizer.py|                rates = _rates(held.group)|                rates = _rates(first)|test_groups.py|rate_is_its
clip-forgotten|_optimizer.py|*_rates(first), first["clip"], self.count + 1)|*_rates(first), 0.0, self.count + 1)|test_trainer.py|trainer
decay-not-spared|_optimizer.py|                self.core_optimizer.decay(held.tensor, 0.0)|                pass|test_train.py|no_decay
master-of-zeros|_optimizer.py|            _Resident.write(master, data.float())|            pass|test_parts.py|masters
steps-counted-anew|_optimizer.py|.get("optimizers", {}).get(name, 0)|.get("optimizers", {}).get("", 0)|test_commit.py|killed
reduced-in-a-copy|_optimizer.py|reduce(tensor_view(memory, (len(memory) // 4,), torch.float32))|reduce(tensor_view(memory, (len(memory) // 4,), torch.float32).clone())|test_parallel.py|pieces
step-while-leased|_optimizer.py|        if leased:|        if False:|test_groups.py|refused
scales-forgotten|_convert.py|                if kind not in _READABLE:|                if False:|test_convert.py|quantized
converted-as-named|_convert.py|        if self.converter is None:|        if len(self.sources) == 1:|test_convert.py|something_else
saved-as-named|_files.py|    if other:|    if False:|test_convert.py|something_else
plan-of-any-model|_plan.py|found["parameters"] != has:|False:|test_plan.py|not_known
line-everywhere|_progress.py|        return os.isatty(sys.stderr.fileno())|        return True|test_plan.py|progress
second-backward-taken|_optimizer.py|        if self.applied and id(held) in self.applied:|        if False:|test_in_backward.py|second
updates-wait-for-the-step|_optimizer.py|        if self.in_backward:\n            self.waiting.append(held)|        if False:\n            self.waiting.append(held)|test_in_backward.py|begin_before
clip-under-backward|_optimizer.py|        if self.in_backward and first["clip"]:|        if False:|test_in_backward.py|goes_without
room-given-early|_activations.py|            flat = tensor_view(lease.memory(0), (self.key[1],), self.dtype).clone()|            flat = tensor_view(lease.memory(0), (self.key[1],), self.dtype)|test_parts.py|activations
'

# Beside the library, as in a build folder.
mkdir -p "$work/python"
cp "$build/liboffload.so.0" "$work/"
cp -r "$build/python/offload" "$work/python/"
survivors=0 killed=0
while IFS='|' read -r name file old new tests which; do
    [ -n "$name" ] || continue
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    "$python" - "$work/python/offload/$file" "$old" "$new" <<'P' || { echo "$name: the text to replace is gone: mend python/tests/mutants.sh"; exit 1; }
import sys
path, old, new = sys.argv[1], sys.argv[2].replace("\\n", "\n"), sys.argv[3].replace("\\n", "\n")
text = open(path, encoding="utf-8").read()
if old not in text:
    sys.exit(1)
open(path, "w", encoding="utf-8").write(text.replace(old, new, 1))
P
    status=0
    (cd "$root" && PYTHONPATH=$work/python PYTHONDONTWRITEBYTECODE=1 timeout 300 "$python" -m pytest -q -x -p no:cacheprovider \
        --basetemp "$work/pytest" "python/tests/$tests" -k "$which") >"$work/log" 2>&1 || status=$?
    cp "$build/python/offload/$file" "$work/python/offload/$file"
    case $status in
    0)
        survivors=$((survivors + 1))
        echo "$name: NOT NOTICED by $tests"
        ;;
    4 | 5) # nothing was run
        cat "$work/log"
        echo "$name: no test: mend python/tests/mutants.sh"
        exit 1
        ;;
    *)
        killed=$((killed + 1))
        echo "$name: noticed by $(sed -n 's/^FAILED [^:]*:*\([^ ]*\).*/\1/p' "$work/log" | head -n 1)$([ $status -ne 124 ] || echo "$tests, which did not end")"
        ;;
    esac
done <<<"$list"
echo "$killed mutants noticed, $survivors not"
[ "$survivors" = 0 ]
