#: exit 2
#: stderr --heads changes nothing for full
#: stderr --method
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method full --heads nowhere.safetensors
