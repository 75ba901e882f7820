# Cases of several methods may be run with the same flags, and say what others need: what is not used is said.
#: stderr note: a case of full does not use hosts, anchor_len, --ring-layout, --heads
#: not did not run
python3 - <<'PY'
import json, os
case = json.load(open(os.path.join(os.environ["FIXTURES"], "cases/01_full_llama/case.json")))
json.dump({**case, "hosts": 3, "anchor_len": 0}, open("full.json", "w"))
PY
run() { apb trace --case "$1" --model "$MODEL" --heads "$HEADS" --out got.safetensors "$2" "$3" >out 2>err || { echo "did not run: $(cat err)"; exit 9; }; }
run "$FIXTURES/cases/06_apb_ret_2/case.json" --chunk 1024
grep -q 'does not use' err && exit 8
run full.json --ring-layout zigzag
cat err >&2
