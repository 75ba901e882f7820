#: exit 2
#: stdout "path":"nowhere.safetensors"
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method apb --heads nowhere.safetensors --json
