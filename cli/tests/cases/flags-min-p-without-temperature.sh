#: exit 2
#: stderr --min-p changes nothing
#: stderr --temperature
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --min-p 0.1
