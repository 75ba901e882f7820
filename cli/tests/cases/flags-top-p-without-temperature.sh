#: exit 2
#: stderr --top-p changes nothing
#: stderr --temperature
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --top-p 0.5
