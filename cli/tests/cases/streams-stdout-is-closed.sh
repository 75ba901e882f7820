#: exit 1
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 --json >&- 2>err
code=$?
grep -q panicked err && exit 9
[ "$code" = 0 ] || [ "$code" = 1 ] && exit 1
