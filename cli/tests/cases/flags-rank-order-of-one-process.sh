#: exit 2
#: stderr --rank-order changes nothing for one process
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method apb --ranks 4 --rank-order folded
