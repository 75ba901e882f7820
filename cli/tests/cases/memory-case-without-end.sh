#: exit 2
#: mebibytes 1000
#: seconds 20
apb trace --case /dev/zero --model "$MODEL" --out got.safetensors
