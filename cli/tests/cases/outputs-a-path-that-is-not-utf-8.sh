#: stdout "out":
out=$(printf 'saved\377')
apb session save --model "$MODEL" --document "$DOCUMENT" --out "$out" --json >shown || exit 9
cat shown
[ -d "$out" ]
