#: exit 2
#: stderr --compressor changes nothing for full
#: stderr --method
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method full --compressor random
