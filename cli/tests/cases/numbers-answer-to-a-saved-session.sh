#: exit 5
#: stderr the largest that fits is --max-tokens
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --quiet >shown
apb session ask --model "$MODEL" --session saved --query Why? --allow-long --max-tokens 1152921504606846976
