#: exit 2
#: stderr --anchor-query changes nothing for full
#: stderr --method
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method full --anchor-query x
