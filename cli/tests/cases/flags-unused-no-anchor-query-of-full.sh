#: exit 2
#: stderr --no-anchor-query changes nothing for full
#: stderr --method
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method full --no-anchor-query
