# A path that a user passes stays on its line, in errors, notes and results.
#: not forged a line
#: not did not name
checked() {
    grep -q '^ *warning: forged' out err && { echo "forged a line: $*: $(cat out err)" | tr '\n' ' '; exit 9; }
    grep -q -F 'x\nwarning: forged\u{202e}' out err || { echo "did not name the path: $*: $(cat out err)"; exit 9; }
}
run() {
    apb "$@" >out 2>err
    checked "$@"
}
x=$(printf 'x\nwarning: forged\342\200\256')
y=$(printf 'y/x\nwarning: forged\342\200\256')
mkdir "$x" y
apb convert --quantize q8_0 "$MODEL" q.gguf --quiet >out || exit 8
run generate --model "$x" --document "$DOCUMENT" --query Why?
run generate --model "$x/model" --document "$DOCUMENT" --query Why?
run generate --model "$MODEL" --document "$x/document" --query Why?
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method apb --heads "$x/heads"
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method apb --heads "$x"
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? --chat-template "$x/template"
run convert "$x" out-folder
run convert q.gguf "$y"
run convert --quantize q8_0 "$MODEL" "$x"
run convert --quantize q8_0 "$MODEL" "$y.gguf"
run convert-heads "$x" out-file
run convert-heads "$HEADS" "$x"
run convert-heads "$HEADS" "$y.safetensors"
run session ask --model "$MODEL" --session "$x" --query Why?
run eval niah --model "$MODEL" --tokens 900 --out "$x"
run eval niah --model "$MODEL" --tokens 900 --chart "$x/none/chart.svg"
run eval niah --model "$MODEL" --tokens 900 --haystack "$x"
run eval ruler --model "$MODEL" --tasks qa_1 --squad "$x"
run eval infinitebench --model "$MODEL" --data "$x"
run eval longbench --model "$MODEL" --data "$x"
printf notes >"$y.jsonl"
run eval niah --model "$MODEL" --tokens 900 --samples 1 --depths 50 --methods full --out "$y.jsonl"
: >"$y.txt"
run eval agreement --model "$MODEL" --document "$DOCUMENT" --questions "$y.txt"
export APB_CACHE="$PWD/$x" HF_HOME="$PWD/$x" HF_HUB_OFFLINE=1
run doctor
run fetch org/name --source hub
