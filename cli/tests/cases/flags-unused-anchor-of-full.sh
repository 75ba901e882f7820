#: exit 2
#: stderr --anchor changes nothing for full
#: stderr --method
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method full --anchor 8
