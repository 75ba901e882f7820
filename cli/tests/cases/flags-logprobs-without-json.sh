#: exit 2
#: stderr --json
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --logprobs 2
