#: exit 2
#: stderr apb launch
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --rank-logs logs
