# Other values of flags and variables cannot begin a line either.
#: not forged a line
run() {
    apb "$@" >out 2>err && { echo "forged a line: did not refuse $*"; exit 9; }
    grep -q '^warning: forged' out err && { echo "forged a line: $*: $(cat out err)" | tr '\n' ' '; exit 9; }
    grep -q forged err || { echo "forged a line: did not name the value: $*: $(cat err)"; exit 9; }
}
x=$(printf 'x\nwarning: forged\342\200\256\033[31m')
run "$x"
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method "$x"
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? --max-tokens "$x"
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? --device="$x"
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? --template-var "$x"
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? --template "$x"
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? --stop-token "$x"
run generate --model "$MODEL" --document "$DOCUMENT" --query Why? "--$x"
run eval niah --model "$MODEL" --methods "full,$x"
run eval tune --model "$MODEL" --hardware "$x"
run fetch "$x"
run fetch "org/$x"
export HF_ENDPOINT="$x"
run fetch org/name --source hub
export WORLD_SIZE="$x" RANK=0
run generate --model "$MODEL" --document "$DOCUMENT" --query Why?
export APB_CPU="$x"
run doctor
