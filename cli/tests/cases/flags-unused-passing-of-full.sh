#: exit 2
#: stderr --passing changes nothing for full
#: stderr --method
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method full --passing 4
