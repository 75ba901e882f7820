#: exit 2
#: stderr compressor
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --method apb --ranks 2 --compressor random --quiet
apb session ask --model "$MODEL" --session saved --query Why? --compressor retaining
