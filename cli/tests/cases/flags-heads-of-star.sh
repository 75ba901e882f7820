#: exit 2
#: stderr apb
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method star --heads nowhere.safetensors
