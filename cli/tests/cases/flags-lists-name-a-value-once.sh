#: not did not refuse
refused() {
    named=$1 && shift
    apb "$@" >out 2>err
    [ $? = 2 ] && grep -q -F -e "$named twice" err || { echo "did not refuse $*: $(cat err)"; exit 9; }
}
refused '--methods names full' bench prefill --model "$MODEL" --tokens 64 --methods full,apb,full --runs 1
refused '--tokens names 64' bench attention --tokens 64,32,64
refused '--shapes names 4/2x64' bench attention --tokens 64 --shapes 4/2x64,4/2x64
refused '--cases names apb' bench attention --tokens 64 --cases apb,apb
refused '--template-var names level' generate --model "$MODEL" --document "$DOCUMENT" --query Why? --template-var level=1 --template-var level=2
printf '{"document": "A.", "question": "B?", "answer": "C."}\n' >data.jsonl
refused '--data names data.jsonl' train-heads --model "$MODEL" --data data.jsonl --data data.jsonl --out heads.safetensors
