#: stdout "method":"apb"
heads=$(printf 'heads\377.safetensors')
cp "$HEADS" "$heads"
apb session save --model "$MODEL" --document "$DOCUMENT" --method apb --ranks 2 --heads "$heads" --out saved --json
