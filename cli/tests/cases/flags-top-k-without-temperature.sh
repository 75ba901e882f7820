#: exit 2
#: stderr --top-k changes nothing
#: stderr --temperature
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --top-k 5
