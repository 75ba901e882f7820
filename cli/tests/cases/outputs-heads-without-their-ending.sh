# Refused before anything is trained.
#: exit 2
#: stderr .safetensors
#: seconds 10
apb train-heads --model "$MODEL" --synthesize "$DOCUMENT" --out heads
