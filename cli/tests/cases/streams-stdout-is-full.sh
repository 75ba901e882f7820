#: exit 1
#: stderr No space left
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 >/dev/full
