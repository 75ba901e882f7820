#: exit 2
#: stderr --ring-layout changes nothing for full
#: stderr --method
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method full --ring-layout contiguous
