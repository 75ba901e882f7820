# Two runs have two seeds, and a seed that was printed repeats the answer.
#: stderr note: seed
#: stdout "seed":
run() { apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --temperature 2 --max-tokens 24 "$@"; }
run >one
run >two
run --json >three
cat three
cmp -s one two && exit 9
seed=$(sed 's/.*"seed":\([0-9]*\).*/\1/' three)
run --json --seed "$seed" >four
text() { sed 's/.*"tokens":\(\[[0-9,]*\]\).*/\1/' "$1"; }
[ "$(text three)" = "$(text four)" ]
