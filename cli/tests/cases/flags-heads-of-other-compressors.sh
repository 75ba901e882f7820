#: exit 2
#: stderr --heads changes nothing for full, apb-random
apb eval niah --model "$MODEL" --tokens 200 --samples 1 --methods full,apb-random --heads "$HEADS"
