# What is for samples of a file, or for those that are made from a text, has none without.
#: not did not refuse
refused() {
    named=$1 && shift
    apb train-heads --model "$MODEL" --out heads.safetensors "$@" >out 2>err
    [ $? = 2 ] && grep -q -e "$named" err || { echo "did not refuse $*: $(cat err)"; exit 9; }
}
printf '{"document": "A.", "question": "B?", "answer": "C."}\n' >data.jsonl
refused '--data <FILE>' --synthesize "$DOCUMENT" --samples 3
refused '--data <FILE>' --synthesize "$DOCUMENT" --strict
refused '--synthesize <TEXT>' --data data.jsonl --synthesized 512
refused '--synthesize <TEXT>' --data data.jsonl --min-tokens 500
refused '--synthesize <TEXT>' --data data.jsonl --max-tokens 1000
refused '--kv-dtype changes nothing in training' --data data.jsonl --kv-dtype f32
[ ! -e heads.safetensors ] && [ ! -e heads.safetensors.training ]
