#: exit 2
#: stderr width
apb train-heads --model "$MODEL" --synthesize "$DOCUMENT" --out heads.safetensors --width 18446744073709551615
