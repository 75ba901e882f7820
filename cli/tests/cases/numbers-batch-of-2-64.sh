#: exit 2
#: stderr batch is
apb train-heads --model "$MODEL" --synthesize "$DOCUMENT" --out heads.safetensors --steps 1 --batch 18446744073709551615
