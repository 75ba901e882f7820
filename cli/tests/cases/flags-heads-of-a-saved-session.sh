#: exit 2
#: stderr --heads changes nothing
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --quiet
apb session ask --model "$MODEL" --session saved --query Why? --heads "$HEADS"
