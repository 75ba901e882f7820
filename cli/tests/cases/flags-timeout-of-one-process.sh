#: exit 2
#: stderr --timeout changes nothing for one process
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --timeout 5
