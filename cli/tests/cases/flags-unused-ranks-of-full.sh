#: exit 2
#: stderr --ranks changes nothing for full
#: stderr --method
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method full --ranks 4
